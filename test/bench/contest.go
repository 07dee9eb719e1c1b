package main

import (
	"context"
	"errors"
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

// run lets everybody have as many turns as there are rounds, in an order that
// rotates, so that nobody always follows the same one. The kernel comes after
// all others: once forwarding and connection tracking were on, one client's
// connections took 4 ms instead of 0.4 for everybody on the machine that this
// was made on, also when they were off again. The cause was not found. So late
// sessions, in which guests track connections themselves, come just before. The
// fronts come first, while the machine is as it was found.
func (c *contest) run(ctx context.Context) error {
	var rivals, limits []Contestant
	for _, contestant := range c.results.Contestants {
		if c.helpers[contestant.Name].hasProcesses() {
			rivals = append(rivals, contestant)
		} else {
			limits = append(limits, contestant)
		}
	}
	for round := range c.pace.rounds {
		if err := c.fronts(ctx, round); err != nil {
			return err
		}
	}
	for _, contestants := range [][]Contestant{rivals, limits} {
		for _, late := range []bool{false, true} {
			if err := c.rounds(ctx, contestants, late); err != nil {
				return err
			}
		}
	}
	return nil
}

// rounds lets contestants take turns in the late sessions or in the others.
func (c *contest) rounds(ctx context.Context, contestants []Contestant, late bool) error {
	for round := range c.pace.rounds {
		for i := range contestants {
			if err := c.turns(ctx, contestants[(i+round)%len(contestants)], round, late); err != nil {
				return err
			}
		}
	}
	return nil
}

// turns is one contestant's part of a round.
func (c *contest) turns(ctx context.Context, contestant Contestant, round int, late bool) error {
	if !late && c.chosen.has("start") && contestant.takesPart([]string{"start"}) {
		if err := c.startUps(ctx, contestant.Name); err != nil {
			return err
		}
	}
	for _, s := range sessions() {
		s, ok := s.chosen(c.chosen, contestant)
		if !ok || s.late != late || s.once && round > 0 {
			continue
		}
		slog.Info("turn", "round", round+1, "of", c.pace.rounds, "contestant", contestant.Name, "session", s.name)
		if err := c.session(ctx, contestant.Name, s); err != nil {
			return err
		}
	}
	return nil
}

// launcher returns the agent that starts a contestant.
func (c *contest) launcher(name string) launcherAgent {
	switch c.helpers[name].Kind {
	case Veth:
		return c.admin
	case Loopback:
		return c.beside
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
	if s.published {
		t.ports, t.pace = publishedPorts(), c.pace.brief()
	}
	err := t.begin(ctx)
	if err == nil && s.published {
		err = t.publish(ctx)
	}
	if err == nil && s.nested {
		err = t.nest(ctx)
	}
	if err == nil {
		err = t.measure(ctx, s.measurements)
	}
	// The end is for the laboratory's sake, also when ctx is over.
	messages, endErr := t.end(context.WithoutCancel(ctx))
	if s.published {
		endErr = errors.Join(endErr, t.forget(context.WithoutCancel(ctx)))
	}
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
