package main

import (
	"fmt"
	"time"
)

// A pace is how long each measurement takes.
type pace struct {
	rounds   int
	warm     time.Duration // of bulk traffic before the window: slow start and buffers
	window   time.Duration // of bulk traffic
	settle   time.Duration // between measurements, and before memory is read
	path     time.Duration // of bulk traffic over a path with delay and loss
	pings    int           // round trips
	pingTime time.Duration // at most for all of them
	connect  time.Duration
	trial    time.Duration // of one rate of datagrams
	halvings int           // of the gap between a rate that passed and one that did not
	request  time.Duration
	starts   int
	crowd    int // connections, of the largest crowd

	crowdTime time.Duration // at most for one size of crowd
	step      time.Duration // at most for one measurement
}

// String is what a reader of the figures must know.
func (p pace) String() string {
	brief := p.brief()
	return fmt.Sprintf("median of %s in turns; bulk traffic for %v after %v, through published ports %v after %v; %v between measurements",
		plural(p.rounds, "round"), p.window, p.warm, brief.window, brief.warm, p.settle)
}

// usualPace keeps the whole run near a quarter of an hour with six contestants.
func usualPace() pace {
	return pace{
		rounds:   3,
		warm:     300 * time.Millisecond,
		window:   700 * time.Millisecond,
		settle:   100 * time.Millisecond,
		path:     1500 * time.Millisecond,
		pings:    5000,
		pingTime: time.Second,
		connect:  time.Second,
		trial:    200 * time.Millisecond,
		halvings: 3,
		request:  time.Second,
		starts:   20,
		crowd:    50_000,

		crowdTime: 30 * time.Second,
		step:      stepLimit,
	}
}

// brief is the pace of published ports: many rows, most of them twice.
func (p pace) brief() pace {
	p.warm, p.window, p.settle = 200*time.Millisecond, 350*time.Millisecond, 50*time.Millisecond
	p.pings, p.pingTime = 1500, 400*time.Millisecond
	p.connect, p.request = 400*time.Millisecond, 500*time.Millisecond
	p.halvings, p.crowdTime, p.step = 2, 10*time.Second, 8*time.Second
	return p
}

// quickPace is one short round, without the largest crowd.
func quickPace() pace {
	return pace{
		rounds:   1,
		warm:     250 * time.Millisecond,
		window:   600 * time.Millisecond,
		settle:   100 * time.Millisecond,
		path:     time.Second,
		pings:    3000,
		pingTime: time.Second,
		connect:  700 * time.Millisecond,
		trial:    200 * time.Millisecond,
		halvings: 2,
		request:  500 * time.Millisecond,
		starts:   20,
		crowd:    10_000,

		crowdTime: 30 * time.Second,
		step:      stepLimit,
	}
}

// Bounds of the search for a rate of datagrams, per second. The most is above
// what one sender on one core reaches.
const (
	rateFirst = 20_000
	rateLeast = 1_000
	rateMost  = 1_280_000
)

// stepLimit bounds any one call to an agent: the longest measurement and the
// patience for a helper that does not answer.
const stepLimit = 20 * time.Second
