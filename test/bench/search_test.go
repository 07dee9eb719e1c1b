package main

import (
	"errors"
	"testing"
	"time"
)

// pipeOf returns a try function for a helper that passes datagrams up to a
// rate and drops the rest, and a sender that cannot send faster than another.
func pipeOf(helper, sender int) func(int) (trial, error) {
	return func(rate int) (trial, error) {
		sent := min(rate, sender)
		return trial{rate: rate, sent: sent, received: int64(min(sent, helper)), elapsed: time.Second}, nil
	}
}

func TestSearch(t *testing.T) {
	tests := []struct {
		name           string
		helper, sender int
		low, high      float64 // of the result
	}{
		{"between the rates", 100_000, 1 << 30, 95_000, 101_000},
		{"below the first rate", 7_000, 1 << 30, 6_000, 7_100},
		{"below the least rate", 500, 1 << 30, 0, 0},
		{"above the most", 1 << 30, 1 << 30, 1_280_000, 1_280_000},
		{"sender is slower", 1 << 30, 100_000, 100_000, 100_000},
		{"nothing arrives", 0, 1 << 30, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			best, err := search{
				first: rateFirst, least: rateLeast, most: rateMost, halvings: 6,
				try: pipeOf(tt.helper, tt.sender),
			}.run()
			if err != nil {
				t.Fatal(err)
			}
			if got := best.perSecond(); got < tt.low || got > tt.high {
				t.Errorf("got %v, want %v to %v", got, tt.low, tt.high)
			}
		})
	}
}

func TestSearchForgivesOnce(t *testing.T) {
	failed := make(map[int]bool)
	pipe := pipeOf(50_000, 1<<30)
	best, err := search{first: 20_000, least: 1_000, most: 40_000, try: func(rate int) (trial, error) {
		if !failed[rate] {
			failed[rate] = true
			return trial{rate: rate, sent: rate, elapsed: time.Second}, nil
		}
		return pipe(rate)
	}}.run()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := best.rate, 40_000; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSearchSlowSender wants the most that arrived without loss, where the sender is
// slower from time to time.
func TestSearchSlowSender(t *testing.T) {
	for _, tt := range []struct {
		name    string
		senders map[int][]int // by rate: what the sender manages at each trial
		want    float64
	}{
		{"in the last trial", map[int][]int{80_000: {70_000, 80_000}, 160_000: {60_000, 65_000}}, 80_000},
		{"once", map[int][]int{80_000: {50_000, 80_000}, 160_000: {60_000, 110_000}}, 110_000},
		{"in both trials", map[int][]int{20_000: {15_000, 14_000}}, 15_000},
	} {
		best, err := search{first: rateFirst, least: rateLeast, most: rateMost, halvings: 3, try: func(rate int) (trial, error) {
			sender := rate
			if left := tt.senders[rate]; len(left) > 0 {
				sender, tt.senders[rate] = left[0], left[1:]
			}
			return pipeOf(1<<30, sender)(rate)
		}}.run()
		if err != nil {
			t.Fatal(err)
		}
		if got := best.perSecond(); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestSearchStops(t *testing.T) {
	want := errors.New("gone")
	_, got := search{first: 1, least: 1, most: 8, try: func(int) (trial, error) { return trial{}, want }}.run()
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
