package main

import (
	"context"
	"time"
)

// A session is a guest with one MTU and what is measured in it.
type session struct {
	name         string
	mtu          int
	measurements []measurement

	// nested puts another network behind the guest, and measures from there.
	nested bool

	// published has the servers in the guest, at published ports.
	published bool

	// once makes it part of the first round only: it takes long and its
	// figures hardly vary.
	once bool

	// late sessions come when all contestants have had the others: they leave
	// traces in the kernel (see contest.run).
	late bool
}

// sessions returns what each contestant goes through in a round. Memory has
// guests of its own, because what a helper has done before it keeps.
func sessions() []session {
	return []session{
		{name: "memory", mtu: mtuEthernet, measurements: []measurement{memory(inGuest)}},
		{name: "MTU 1500", mtu: mtuEthernet, measurements: ethernet()},
		{name: "MTU 65520", mtu: mtuLarge, measurements: bulks(mtuLarge, false)},
		{name: "memory, published", mtu: mtuLarge, published: true, once: true, measurements: []measurement{memory(onOutside)}},
		{name: "published", mtu: mtuLarge, published: true, measurements: publishedMeasurements()},
		{name: "nested", mtu: mtuEthernet, nested: true, late: true, measurements: bulks(mtuEthernet, true)},
		{name: "many connections", mtu: mtuEthernet, once: true, late: true, measurements: []measurement{crowded(inGuest, crowdSizes()...)}},
		{name: "many published connections", mtu: mtuLarge, published: true, once: true, late: true,
			measurements: []measurement{crowded(onOutside, publishedCrowd)}},
	}
}

// ethernet returns what is measured with the usual MTU.
func ethernet() []measurement {
	all := bulks(mtuEthernet, false)
	all = append(all, pingPong(inGuest))
	for _, flows := range besideFlows() {
		all = append(all, pingPongBeside(flows))
	}
	for _, clients := range connectClients() {
		all = append(all, connects(inGuest, clients))
	}
	for _, size := range datagramSizes() {
		all = append(all, datagrams(inGuest, size))
	}
	for _, down := range []bool{false, true} {
		all = append(all, segments(inGuest, down))
	}
	for _, flows := range requestFlows() {
		all = append(all, requests(inGuest, flows))
	}
	all = append(all, queries())
	for _, down := range []bool{false, true} {
		all = append(all, quic(down))
	}
	for _, down := range []bool{false, true} {
		all = append(all, lossy(down))
	}
	return all
}

// bulks returns the throughput measurements of one MTU.
func bulks(mtu int, nested bool) []measurement {
	var all []measurement
	for _, s := range streams() {
		if s.mtu == mtu && s.nested == nested {
			all = append(all, bulk(s))
		}
	}
	return all
}

// chosen returns the session with those measurements only that fill a chosen
// row which the contestant takes part in. It is false if there are none.
func (s session) chosen(rows selection, contestant Contestant) (session, bool) {
	var left []measurement
	for _, m := range s.measurements {
		if rows.has(m.keys...) && contestant.takesPart(m.keys) {
			left = append(left, m)
		}
	}
	s.measurements = left
	return s, len(left) > 0
}

// A measurement is made during a turn and fills rows.
type measurement struct {
	keys  []string
	make  func(context.Context, *turn) error
	limit time.Duration // at most for all of it; less than the pace's step means that
}
