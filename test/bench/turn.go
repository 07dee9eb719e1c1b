package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// A turn is one guest with its network: a contestant's, for a while.
type turn struct {
	*world
	contestant string
	helper     Helper
	mtu        int // bytes, of the guest's interface
	launcher   launcherAgent
	guest      *remote
	pace       pace
	results    *Results
	runs       uint64 // datagram runs so far
}

// A measurement is made during a turn and fills rows.
type measurement struct {
	keys []string
	make func(context.Context, *turn) error
}

// record adds a value to the results.
func (t *turn) record(key string, value float64) {
	t.results.record(t.contestant, key, value)
	slog.Debug("measured", "contestant", t.contestant, "row", key, "value", number(value))
}

// measure makes those measurements that fill a chosen row. What fails is noted
// and the next one is tried: a helper that cannot do one thing is measured
// in the others.
func (t *turn) measure(ctx context.Context, chosen selection, all []measurement) error {
	for _, m := range all {
		if !chosen.has(m.keys...) {
			continue
		}
		if err := wait(ctx, t.pace.settle); err != nil {
			return err
		}
		err := within(ctx, func(ctx context.Context) error { return m.make(ctx, t) })
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
		args := LaunchArgs{
			Helper:  t.helper,
			MTU:     t.mtu,
			Command: t.lab.ProgramArgs(roleGuest, t.socket.Addr().String(), token),
		}
		if err := t.launcher.call(ctx, "Launch", args, &Nothing{}); err != nil {
			return err
		}
		var err error
		limited, cancel := context.WithTimeout(ctx, startPatience)
		defer cancel()
		if t.guest, err = t.answer(limited, roleGuest, token); err != nil {
			return err
		}
		if err := t.guest.call(ctx, "Congestion", t.congestion, &Nothing{}); err != nil {
			return err
		}
		return t.guest.call(ctx, "Reach", ReachArgs{Address: t.servers.Close, Limit: startPatience}, &Nothing{})
	})
}

// end hangs up on the guest, ends the helper and returns what it said.
func (t *turn) end(ctx context.Context) (messages string, err error) {
	if t.guest != nil {
		err = t.guest.Close()
	}
	return messages, errors.Join(err, within(ctx, func(ctx context.Context) error {
		return t.launcher.call(ctx, "Stop", Nothing{}, &messages)
	}))
}

// usage is what the helper's processes use.
func (t *turn) usage() usage {
	return helperUsage(t.launcher.pid, t.program())
}

// within calls f with a context that ends after stepLimit.
func within(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
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

// bulk measures a stream's throughput and what it costs.
func bulk(s stream) measurement {
	return measurement{
		keys: []string{s.rateKey(), s.costKey()},
		make: func(ctx context.Context, t *turn) error { return t.bulk(ctx, s) },
	}
}

// bulk starts the stream and looks at the receiver's counter and at the
// helper's processor time at both ends of the window.
func (t *turn) bulk(ctx context.Context, s stream) error {
	args := StreamArgs{Address: t.servers.Sink, Flows: s.flows, Down: s.down}
	receiver := t.outside
	if s.down {
		args.Address, receiver = t.servers.Source, t.guest
	}
	// The stream must outlast the window, also if the window starts late.
	args.Duration = t.pace.warm + t.pace.window + 200*time.Millisecond
	call := t.guest.start("Stream", args, &Nothing{})
	var before, after Received
	if err := wait(ctx, t.pace.warm); err != nil {
		return err
	}
	used := t.usage().cpu
	if err := receiver.call(ctx, "Received", Nothing{}, &before); err != nil {
		return err
	}
	if err := wait(ctx, t.pace.window); err != nil {
		return err
	}
	if err := receiver.call(ctx, "Received", Nothing{}, &after); err != nil {
		return err
	}
	used = t.usage().cpu - used
	if err := await(ctx, call); err != nil {
		return err
	}
	bytes := float64(after.Bytes - before.Bytes)
	t.record(s.rateKey(), bytes*8/1e9/(after.At-before.At).Seconds())
	if bytes > 0 && t.helper.Kind != Veth {
		t.record(s.costKey(), used.Seconds()/(bytes/1e9))
	}
	return nil
}

// pingPong measures round trips of one byte.
func (t *turn) pingPong(ctx context.Context) error {
	args := PingPongArgs{Address: t.servers.PingPong, Rounds: t.pace.pings, Limit: t.pace.pingTime}
	var reply Latency
	if err := t.guest.call(ctx, "PingPong", args, &reply); err != nil {
		return err
	}
	t.record("pingpong-p50", microseconds(reply.P50))
	t.record("pingpong-p99", microseconds(reply.P99))
	return nil
}

// connects measures connections per second of a number of clients.
func connects(clients int) measurement {
	key := rowKey("connect", clients)
	return measurement{keys: []string{key}, make: func(ctx context.Context, t *turn) error {
		args := ConnectArgs{Address: t.servers.Close, Clients: clients, Duration: t.pace.connect}
		var reply Connects
		if err := t.guest.call(ctx, "Connect", args, &reply); err != nil {
			return err
		}
		t.record(key, reply.PerSecond())
		t.record(key+"-p99", microseconds(reply.Took.P99)/1000)
		t.record(key+"-failed", reply.FailedPercent())
		if reply.First != "" {
			t.results.note("%s, %s: %d failed and %d timed out of %d, one with: %s", t.contestant, key,
				reply.Failed, reply.Late, reply.Done+reply.Failed+reply.Late, reply.First)
		}
		return nil
	}}
}

// datagrams measures the rate of datagrams out of the guest.
func datagrams(size int) measurement {
	key := rowKey("udp", "out", size)
	return measurement{keys: []string{key}, make: func(ctx context.Context, t *turn) error {
		best, err := search{
			first: rateFirst, least: rateLeast, most: rateMost, halvings: t.pace.halvings,
			try: func(rate int) (trial, error) { return t.spout(ctx, size, rate) },
		}.run()
		if err != nil {
			return err
		}
		t.record(key, best.perSecond()/1000)
		return nil
	}}
}

// spout is one trial: datagrams at one rate. It waits for those on their way.
func (t *turn) spout(ctx context.Context, size, rate int) (trial, error) {
	t.runs++
	if err := t.outside.call(ctx, "Expect", t.runs, &Nothing{}); err != nil {
		return trial{}, err
	}
	args := SpoutArgs{Address: t.servers.Drain, Run: t.runs, Size: size, Rate: rate, Duration: t.pace.trial}
	var sent Spouted
	if err := t.guest.call(ctx, "Spout", args, &sent); err != nil {
		return trial{}, err
	}
	result := trial{rate: rate, sent: sent.Sent, elapsed: sent.Elapsed, received: -1}
	for {
		var count int64
		if err := t.outside.call(ctx, "Counted", Nothing{}, &count); err != nil {
			return trial{}, err
		}
		if count == result.received {
			return result, nil
		}
		result.received = count
		if err := wait(ctx, drainTime); err != nil {
			return trial{}, err
		}
	}
}

// drainTime without a datagram ends a trial.
const drainTime = 30 * time.Millisecond

// requests measures datagrams to and fro.
func requests(flows int) measurement {
	key := rowKey("udp", "request", flows)
	return measurement{keys: []string{key}, make: func(ctx context.Context, t *turn) error {
		args := RequestArgs{Address: t.servers.Echo, Flows: flows, Duration: t.pace.request}
		var reply Requests
		if err := t.guest.call(ctx, "Request", args, &reply); err != nil {
			return err
		}
		t.record(key, reply.PerSecond()/1000)
		t.record(key+"-p50", microseconds(reply.Took.P50))
		t.record(key+"-lost", 100*float64(reply.Lost)/float64(max(1, reply.Done+reply.Lost)))
		return nil
	}}
}

// memory measures the helper's processes fresh, then with idle connections.
// The kernel limit has no processes.
func (t *turn) memory(ctx context.Context) error {
	idle := t.usage()
	if idle.count == 0 {
		return nil
	}
	t.record("memory-idle", float64(idle.resident())/1e6)
	if idle.pss == 0 {
		t.results.note("%s: memory is RSS, the kernel does not tell PSS", t.contestant)
	}
	refused := 0
	hold := HoldArgs{Address: t.servers.Hold, Count: idleConnections}
	if err := t.guest.call(ctx, "Hold", hold, &refused); err != nil {
		return err
	}
	if err := wait(ctx, t.pace.settle); err != nil {
		return err
	}
	busy := t.usage()
	t.record("memory-failed", float64(refused))
	if open := idleConnections - refused; open > 0 {
		t.record("memory-connection", float64(busy.resident()-idle.resident())/1e3/float64(open))
	}
	if busy.count != idle.count {
		return fmt.Errorf("%d processes, then %d", idle.count, busy.count)
	}
	return t.guest.call(ctx, "Release", Nothing{}, &Nothing{})
}
