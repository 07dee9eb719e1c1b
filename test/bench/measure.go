package main

import (
	"context"
	"errors"
	"time"
)

// bulk measures a stream's throughput and what it costs.
func bulk(s stream) measurement {
	return measurement{
		keys: []string{s.rateKey(), s.costKey()},
		make: func(ctx context.Context, t *turn) error {
			got, err := t.stream(ctx, t.at(s.from), s, t.pace.window)
			if err != nil {
				return err
			}
			t.record(s.rateKey(), got.gigabits())
			if cost, ok := got.cost(); ok && t.helper.hasProcesses() {
				t.record(s.costKey(), cost)
			}
			return nil
		},
	}
}

// stream opens the flows of a stream, lets them run and watches a window.
func (t *turn) stream(ctx context.Context, at Servers, s stream, window time.Duration) (transfer, error) {
	args := OpenArgs{Address: at.Sink, Flows: s.flows, Down: s.down}
	client, receiver := t.client(s.from), t.server(s.from)
	if s.down {
		args.Address, receiver = at.Source, client
	}
	if err := client.call(ctx, "Open", args, &Nothing{}); err != nil {
		return transfer{}, err
	}
	call := client.start("Stream", t.pace.warm+window+overrun, &Nothing{})
	got, err := t.watch(ctx, receiver, window)
	if err != nil {
		return transfer{}, err
	}
	return got, errors.Join(client.call(ctx, "Halt", Nothing{}, &Nothing{}), await(ctx, call))
}

// overrun is how much longer bulk traffic may last than it must: a window may
// start late.
const overrun = 200 * time.Millisecond

// A transfer is what arrived in a window and what it cost.
type transfer struct {
	bytes int64
	time  time.Duration
	cpu   time.Duration // of the helper's processes
}

// gigabits is the rate in Gbit/s.
func (t transfer) gigabits() float64 { return float64(t.bytes) * 8 / 1e9 / t.time.Seconds() }

// cost is the processor time in seconds per 10^9 bytes. It is false if nothing
// arrived.
func (t transfer) cost() (float64, bool) {
	return t.cpu.Seconds() / (float64(t.bytes) / 1e9), t.bytes > 0
}

// watch lets traffic that has just begun warm up, and then looks at the
// receiver's counter and at the helper's processor time at both ends of a
// window.
func (t *turn) watch(ctx context.Context, receiver *remote, window time.Duration) (transfer, error) {
	var before, after Received
	if err := wait(ctx, t.pace.warm); err != nil {
		return transfer{}, err
	}
	used := t.usage().cpu
	if err := receiver.call(ctx, "Received", Nothing{}, &before); err != nil {
		return transfer{}, err
	}
	if err := wait(ctx, window); err != nil {
		return transfer{}, err
	}
	if err := receiver.call(ctx, "Received", Nothing{}, &after); err != nil {
		return transfer{}, err
	}
	used = t.usage().cpu - used
	return transfer{bytes: after.Bytes - before.Bytes, time: after.At - before.At, cpu: used}, nil
}

// pingPong measures round trips of one byte.
func pingPong(from side) measurement {
	p50, p99 := from.pingPongKey("p50"), from.pingPongKey("p99")
	return measurement{keys: []string{p50, p99}, make: func(ctx context.Context, t *turn) error {
		args := PingPongArgs{Address: t.at(from).PingPong, Rounds: t.pace.pings, Limit: t.pace.pingTime}
		var trips Latency
		if err := t.client(from).call(ctx, "PingPong", args, &trips); err != nil {
			return err
		}
		t.record(p50, microseconds(trips.P50))
		t.record(p99, microseconds(trips.P99))
		return nil
	}}
}

// pingPongBeside measures them while a number of flows send as fast as they
// can.
func pingPongBeside(flows int) measurement {
	p50, p99 := besideKey(flows, "p50"), besideKey(flows, "p99")
	return measurement{keys: []string{p50, p99}, make: func(ctx context.Context, t *turn) error {
		// It connects before the machine is busy.
		args := PingPongArgs{Address: t.servers.PingPong, Idle: 2 * t.pace.warm, Rounds: t.pace.pings, Limit: t.pace.pingTime}
		var trips Latency
		pings := t.guest.start("PingPong", args, &trips)
		if err := wait(ctx, t.pace.warm/2); err != nil {
			return err
		}
		if err := t.guest.call(ctx, "Open", OpenArgs{Address: t.servers.Sink, Flows: flows}, &Nothing{}); err != nil {
			return err
		}
		bulk := t.guest.start("Stream", stepLimit, &Nothing{})
		err := await(ctx, pings)
		if err := errors.Join(err, t.guest.call(ctx, "Halt", Nothing{}, &Nothing{}), await(ctx, bulk)); err != nil {
			return err
		}
		t.record(p50, microseconds(trips.P50))
		t.record(p99, microseconds(trips.P99))
		return nil
	}}
}

// connects measures connections per second of a number of clients.
func connects(from side, clients int) measurement {
	key := from.key("connect", clients)
	return measurement{keys: []string{key}, make: func(ctx context.Context, t *turn) error {
		args := ConnectArgs{Address: t.at(from).Close, Clients: clients, Duration: t.pace.connect}
		var reply Connects
		if err := t.client(from).call(ctx, "Connect", args, &reply); err != nil {
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

// datagrams measures the rate of datagrams from the clients' side, and what each
// costs the helper.
func datagrams(from side, size int) measurement {
	key, cost := from.datagramKey(size), from.costKey("udp", size)
	return measurement{keys: []string{key, cost}, make: func(ctx context.Context, t *turn) error {
		used, received := t.usage().cpu, int64(0)
		best, err := search{
			first: rateFirst, least: rateLeast, most: rateMost, halvings: t.pace.halvings,
			try: func(rate int) (trial, error) {
				got, err := t.spout(ctx, from, size, rate)
				received += got.received
				return got, err
			},
		}.run()
		if err != nil {
			return err
		}
		t.record(key, best.perSecond()/1000)
		if t.helper.hasProcesses() && received > 0 {
			t.record(cost, microseconds(t.usage().cpu-used)/float64(received))
		}
		return nil
	}}
}

// spout is one trial: datagrams at one rate. It waits for those on their way.
func (t *turn) spout(ctx context.Context, from side, size, rate int) (trial, error) {
	t.runs++
	if err := t.server(from).call(ctx, "Expect", t.runs, &Nothing{}); err != nil {
		return trial{}, err
	}
	args := SpoutArgs{Address: t.at(from).Drain, Run: t.runs, Size: size, Rate: rate, Duration: t.pace.trial}
	var sent Spouted
	if err := t.client(from).call(ctx, "Spout", args, &sent); err != nil {
		return trial{}, err
	}
	result := trial{rate: rate, sent: sent.Sent, elapsed: sent.Elapsed, received: -1}
	for {
		var count int64
		if err := t.server(from).call(ctx, "Counted", Nothing{}, &count); err != nil {
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
func requests(from side, flows int) measurement {
	key, cost := from.requestKey(flows), from.costKey("udp", "request", flows)
	return measurement{keys: []string{key, cost}, make: func(ctx context.Context, t *turn) error {
		args := RequestArgs{Address: t.at(from).Echo, Flows: flows, Duration: t.pace.request}
		var reply Requests
		used := t.usage().cpu
		if err := t.client(from).call(ctx, "Request", args, &reply); err != nil {
			return err
		}
		if t.helper.hasProcesses() && reply.Done > 0 {
			t.record(cost, microseconds(t.usage().cpu-used)/float64(reply.Done))
		}
		t.record(key, reply.PerSecond()/1000)
		t.record(key+"-p50", microseconds(reply.Took.P50))
		t.record(key+"-lost", 100*float64(reply.Lost)/float64(max(1, reply.Done+reply.Lost)))
		return nil
	}}
}
