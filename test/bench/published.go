package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
)

// publish has the guest open its servers, and waits until clients of each side
// reach them.
func (t *turn) publish(ctx context.Context) error {
	return within(ctx, func(ctx context.Context) error {
		args := ServeArgs{Address: "0.0.0.0", FirstPort: t.ports.First}
		if err := t.guest.call(ctx, "Serve", args, &t.published); err != nil {
			return err
		}
		if err := t.launcher.call(ctx, "Forward", t.launchArgs(""), &Nothing{}); err != nil {
			return err
		}
		for _, from := range publishedSides() {
			reach := ReachArgs{Address: t.at(from).Close, Limit: startPatience}
			if err := t.client(from).call(ctx, "Reach", reach, &Nothing{}); err != nil {
				return fmt.Errorf("published ports, %s: %w", from, err)
			}
		}
		return nil
	})
}

// forget closes what clients of published ports may have left open after a
// measurement that was given up: their agents outlive the guest.
func (t *turn) forget(ctx context.Context) error {
	var errs []error
	for _, from := range publishedSides() {
		errs = append(errs, t.client(from).call(ctx, "Release", Nothing{}, &Nothing{}))
	}
	return errors.Join(errs...)
}

// on returns the servers, which listen on all addresses, at one of them.
func (s Servers) on(address string) Servers {
	at := s
	at.Hold = slices.Clone(s.Hold)
	for _, place := range at.all() {
		_, port, _ := net.SplitHostPort(*place) // we made it
		*place = net.JoinHostPort(address, port)
	}
	return at
}

// publishedStreams returns the throughput measurements of published ports, as
// most callers have them: with the largest MTU.
func publishedStreams() []stream {
	var all []stream
	for _, from := range publishedSides() {
		for _, down := range []bool{false, true} {
			for _, flows := range []int{1, 8} {
				all = append(all, stream{from: from, mtu: mtuLarge, down: down, flows: flows})
			}
		}
	}
	return all
}

// What else is measured of published ports, from outside only.
const (
	publishedDatagram = 1400 // bytes
	publishedFlows    = 1000
	publishedCrowd    = 10_000
)

// publishedRows returns the rows of published ports.
func publishedRows() []Row {
	var rows []Row
	for _, s := range publishedStreams() {
		rows = append(rows, Row{Key: s.rateKey(), Title: "TCP, " + s.title(), Unit: "Gbit/s"})
	}
	for _, from := range publishedSides() {
		rows = slices.Concat(rows, pingPongRows(from), connectRows(from))
	}
	rows = slices.Concat(rows, datagramRows(onOutside, publishedDatagram), requestRows(onOutside, publishedFlows),
		segmentRows(onOutside), memoryRows(onOutside), crowdRows(onOutside, publishedCrowd))
	for _, s := range publishedStreams() {
		rows = append(rows, Row{Key: s.costKey(), Title: "CPU, " + s.title(), Unit: "s/GB", Lower: true})
	}
	return rows
}

// publishedMeasurements fill these rows but for those of memory.
func publishedMeasurements() []measurement {
	var all []measurement
	for _, s := range publishedStreams() {
		all = append(all, bulk(s))
	}
	for _, from := range publishedSides() {
		all = append(all, pingPong(from))
		for _, clients := range connectClients() {
			all = append(all, connects(from, clients))
		}
	}
	all = append(all, datagrams(onOutside, publishedDatagram), requests(onOutside, publishedFlows))
	for _, down := range []bool{false, true} {
		all = append(all, segments(onOutside, down))
	}
	return all
}

// publishedBars are the promises about published ports.
func publishedBars() []bar {
	var all []bar
	for _, s := range publishedStreams() {
		all = append(all, bar{key: s.rateKey(), factor: 0.9})
	}
	for _, from := range publishedSides() {
		all = append(all, bar{key: from.pingPongKey("p50"), factor: 1})
		for _, n := range connectClients() {
			all = append(all, bar{key: from.key("connect", n), factor: 1})
		}
	}
	return append(all,
		bar{key: onOutside.datagramKey(publishedDatagram), factor: 0.9},
		bar{key: onOutside.requestKey(publishedFlows), factor: 0.9},
		bar{key: onOutside.memoryDescriptors(), factor: 3, alone: true})
}

// publishedKeys are the keys of the rows of published ports, and outboundKeys
// those of the others.
func publishedKeys() []string { return keysOf(publishedRows()) }

func outboundKeys() []string { return without(nil, publishedKeys()) }

// without returns keys, of which none means all, but for some.
func without(keys, some []string) []string {
	if len(keys) == 0 {
		keys = keysOf(allRows())
	}
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return slices.Contains(some, key) })
}

// keysOf returns the keys of rows.
func keysOf(rows []Row) []string {
	keys := make([]string, len(rows))
	for i, row := range rows {
		keys[i] = row.Key
	}
	return keys
}
