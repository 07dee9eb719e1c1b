package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"
)

// A turn is one guest with its network: a contestant's, for a while.
type turn struct {
	*world
	contestant string
	helper     Helper
	mtu        int     // bytes, of the guest's interface
	ports      Ports   // that the helper publishes
	published  Servers // of the guest, if there are ports
	launcher   launcherAgent
	guest      *remote
	outer      *remote // the agent in the guest, when guest is in a network behind it
	pace       pace
	results    *Results
	runs       uint64 // datagram runs so far
}

// record adds a value to the results.
func (t *turn) record(key string, value float64) {
	t.results.record(t.contestant, key, value)
	slog.Debug("measured", "contestant", t.contestant, "row", key, "value", number(value))
}

// measure makes the measurements. What fails is noted and the next one is
// tried: a helper that cannot do one thing is measured in the others.
func (t *turn) measure(ctx context.Context, all []measurement) error {
	for _, m := range all {
		if err := wait(ctx, t.pace.settle); err != nil {
			return err
		}
		err := limited(ctx, max(m.limit, t.pace.step), func(ctx context.Context) error { return m.make(ctx, t) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			t.results.note("%s, %s: %v", t.contestant, m.keys[0], err)
		}
	}
	return nil
}

// begin starts the helper with a guest and waits until it reaches the outside.
func (t *turn) begin(ctx context.Context) error {
	return within(ctx, func(ctx context.Context) error {
		t.guests++
		token := strconv.Itoa(t.guests)
		if err := t.launcher.call(ctx, "Launch", t.launchArgs(token), &Nothing{}); err != nil {
			return err
		}
		var err error
		if t.guest, err = t.greet(ctx, token); err != nil {
			return err
		}
		return t.ready(ctx)
	})
}

// launchArgs describes the guest with that token.
func (t *turn) launchArgs(token string) LaunchArgs {
	return LaunchArgs{
		Helper: t.helper, MTU: t.mtu, Ports: t.ports, Dir: t.lab.Dir,
		Command: t.lab.ProgramArgs(roleGuest, t.socket.Addr().String(), token),
	}
}

// greet waits for the agent in a guest.
func (t *turn) greet(ctx context.Context, token string) (agent *remote, err error) {
	err = limited(ctx, startPatience, func(ctx context.Context) error {
		agent, err = t.answer(ctx, roleGuest, token)
		return err
	})
	return agent, err
}

// ready waits until the guest reaches the outside.
func (t *turn) ready(ctx context.Context) error {
	if err := t.guest.call(ctx, "Congestion", t.congestion, &Nothing{}); err != nil {
		return err
	}
	return t.guest.call(ctx, "Reach", ReachArgs{Address: t.servers.Close, Limit: startPatience}, &Nothing{})
}

// end hangs up on the guest, ends the helper and returns what it said.
func (t *turn) end(ctx context.Context) (messages string, err error) {
	for _, agent := range []*remote{t.guest, t.outer} {
		if agent != nil {
			err = errors.Join(err, agent.Close())
		}
	}
	return messages, errors.Join(err, within(ctx, func(ctx context.Context) error {
		return t.launcher.call(ctx, "Stop", Nothing{}, &messages)
	}))
}

// usage is what the helper's processes use.
func (t *turn) usage() usage {
	return helperUsage(t.launcher.pid, t.generators())
}

// descriptors is the number of files that they have open.
func (t *turn) descriptors() int {
	return descriptors(helperProcesses(t.launcher.pid, t.generators()))
}

// within calls f with a context that ends after stepLimit.
func within(ctx context.Context, f func(context.Context) error) error {
	return limited(ctx, stepLimit, f)
}

// limited calls f with a context that ends after a limit.
func limited(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// wait lets time pass, unless ctx ends before.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
