package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// A contest lets contestants take turns.
type contest struct {
	*world
	pace    pace
	chosen  selection
	helpers map[string]Helper
	results *Results
}

// A session is a guest with one MTU and what is measured in it.
type session struct {
	name         string
	mtu          int
	measurements []measurement
}

// sessions returns what each contestant goes through in a round. Memory has a
// guest of its own, because what a helper has done before it keeps.
func sessions() []session {
	ethernet := session{name: "MTU 1500", mtu: mtuEthernet}
	large := session{name: "MTU 65520", mtu: mtuLarge}
	for _, s := range streams() {
		if s.mtu == mtuEthernet {
			ethernet.measurements = append(ethernet.measurements, bulk(s))
		} else {
			large.measurements = append(large.measurements, bulk(s))
		}
	}
	ethernet.measurements = append(ethernet.measurements,
		measurement{keys: []string{"pingpong-p50", "pingpong-p99"}, make: func(ctx context.Context, t *turn) error { return t.pingPong(ctx) }})
	for _, n := range connectClients() {
		ethernet.measurements = append(ethernet.measurements, connects(n))
	}
	for _, size := range datagramSizes() {
		ethernet.measurements = append(ethernet.measurements, datagrams(size))
	}
	for _, n := range requestFlows() {
		ethernet.measurements = append(ethernet.measurements, requests(n))
	}
	memory := session{name: "memory", mtu: mtuEthernet, measurements: []measurement{{
		keys: []string{"memory-idle", "memory-connection", "memory-failed"},
		make: func(ctx context.Context, t *turn) error { return t.memory(ctx) },
	}}}
	return []session{memory, ethernet, large}
}

// chosen reports whether any of the session's rows was asked for.
func (s session) chosen(rows selection) bool {
	for _, m := range s.measurements {
		if rows.has(m.keys...) {
			return true
		}
	}
	return false
}

// run lets everybody have as many turns as there are rounds, in an order that
// rotates, so that nobody always follows the same one. The kernel comes after
// all others: once forwarding and connection tracking were on, one client's
// connections took 4 ms instead of 0.4 for everybody on the machine that this
// was made on, also when they were off again. The cause was not found. The fronts
// come first, while the machine is as it was found.
func (c *contest) run(ctx context.Context) error {
	var rivals, limits []string
	for _, contestant := range c.results.Contestants {
		if c.helpers[contestant.Name].Kind == Veth {
			limits = append(limits, contestant.Name)
		} else {
			rivals = append(rivals, contestant.Name)
		}
	}
	for round := range c.pace.rounds {
		if err := c.fronts(ctx, round); err != nil {
			return err
		}
	}
	for _, names := range [][]string{rivals, limits} {
		if err := c.rounds(ctx, names); err != nil {
			return err
		}
	}
	return nil
}

// rounds lets names take turns.
func (c *contest) rounds(ctx context.Context, names []string) error {
	for round := range c.pace.rounds {
		for i := range names {
			name := names[(i+round)%len(names)]
			slog.Info("turn", "round", round+1, "of", c.pace.rounds, "contestant", name)
			if err := c.turns(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// turns is one contestant's part of a round.
func (c *contest) turns(ctx context.Context, name string) error {
	if c.chosen.has("start") {
		if err := c.startUps(ctx, name); err != nil {
			return err
		}
	}
	for _, s := range sessions() {
		if !s.chosen(c.chosen) {
			continue
		}
		if err := c.session(ctx, name, s); err != nil {
			return err
		}
	}
	return nil
}

// launcher returns the agent that starts a contestant.
func (c *contest) launcher(name string) launcherAgent {
	if c.helpers[name].Kind == Veth {
		return c.admin
	}
	return c.host
}

// session starts a guest, makes the measurements and ends it. That a helper
// does not work is noted; only the end of ctx and a helper that cannot be
// ended are errors.
func (c *contest) session(ctx context.Context, name string, s session) error {
	t := &turn{
		world: c.world, contestant: name, helper: c.helpers[name], mtu: s.mtu,
		launcher: c.launcher(name), pace: c.pace, results: c.results,
	}
	err := t.begin(ctx)
	if err == nil {
		err = t.measure(ctx, c.chosen, s.measurements)
	}
	// The end is for the laboratory's sake, also when ctx is over.
	messages, endErr := t.end(context.WithoutCancel(ctx))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.results.note("%s, %s: %v: %s", name, s.name, err, messages)
	}
	if endErr != nil {
		return fmt.Errorf("end %s: %w", name, endErr)
	}
	return nil
}

// startUps measures the time from nothing to a working guest. The first
// failure ends it.
func (c *contest) startUps(ctx context.Context, name string) error {
	args := LaunchArgs{
		Helper:  c.helpers[name],
		MTU:     mtuEthernet,
		Command: c.lab.ProgramArgs(roleFirst, c.servers.Close),
	}
	var times []float64
	for range c.pace.starts {
		var took time.Duration
		err := within(ctx, func(ctx context.Context) error {
			return c.launcher(name).call(ctx, "StartUp", args, &took)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.results.note("%s, start: %v", name, err)
			return nil
		}
		times = append(times, microseconds(took)/1000)
	}
	c.results.record(name, "start", median(times))
	return nil
}
