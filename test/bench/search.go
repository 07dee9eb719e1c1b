package main

import "time"

// lossAllowed is the share of datagrams that may be lost at a rate that still
// counts.
const lossAllowed = 0.01

// A trial is what became of datagrams that were offered at one rate.
type trial struct {
	rate     int // datagrams per second that were asked for
	sent     int
	received int64
	elapsed  time.Duration
}

// passes reports whether few enough were lost.
func (t trial) passes() bool {
	return t.sent > 0 && float64(t.received) >= (1-lossAllowed)*float64(t.sent)
}

// keptUp reports whether the sender could offer the rate at all.
func (t trial) keptUp() bool {
	return float64(t.sent) >= 0.95*float64(t.rate)*t.elapsed.Seconds()
}

// perSecond is the rate received.
func (t trial) perSecond() float64 {
	if t.elapsed <= 0 {
		return 0
	}
	return float64(t.received) / t.elapsed.Seconds()
}

// faster returns the trial that brought more datagrams per second.
func faster(a, b trial) trial {
	if b.perSecond() > a.perSecond() {
		return b
	}
	return a
}

// A search looks for the highest rate that passes: it doubles the rate until
// one fails or the sender does not keep up, then halves the gap. Where nothing is
// lost but the sender is the limit, it is the most of all trials that counts, not
// how far the sender came in the last one.
type search struct {
	first, least, most int // datagrams per second
	halvings           int
	try                func(rate int) (trial, error)
}

// run returns the best trial that passed. Its zero value, which received
// nothing, is returned if even the least rate does not pass.
func (s search) run() (trial, error) {
	var best trial
	rate, failed := s.first, 0
	for rate <= s.most && failed == 0 {
		t, err := s.twice(rate)
		if err != nil {
			return best, err
		}
		if !t.passes() {
			failed = rate
			continue
		}
		best = faster(best, t)
		if !t.keptUp() {
			return best, nil
		}
		rate *= 2
	}
	for failed > 0 && best.rate == 0 && failed/2 >= s.least {
		t, err := s.twice(failed / 2)
		if err != nil {
			return best, err
		}
		if t.passes() {
			best = t
		} else {
			failed /= 2
		}
	}
	if failed == 0 || best.rate == 0 {
		return best, nil
	}
	return s.narrow(best, failed)
}

// narrow halves the gap between a trial that passed and a rate that failed.
func (s search) narrow(best trial, failed int) (trial, error) {
	passed := best.rate
	for range s.halvings {
		rate := (passed + failed) / 2
		t, err := s.twice(rate)
		if err != nil {
			return best, err
		}
		if t.passes() {
			best, passed = faster(best, t), rate
		} else {
			failed = rate
		}
	}
	return best, nil
}

// twice tries a rate, and once more if it fails or the sender does not keep up: one
// wake-up of something else on the machine must not decide.
func (s search) twice(rate int) (trial, error) {
	t, err := s.try(rate)
	if err != nil || t.passes() && t.keptUp() {
		return t, err
	}
	again, err := s.try(rate)
	switch {
	case err != nil || !t.passes():
		return again, err
	case again.passes():
		return faster(t, again), nil
	}
	return t, nil
}
