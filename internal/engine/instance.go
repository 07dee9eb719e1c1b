package engine

import (
	"context"
	"time"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// An Instance is a guest's network that works. Its methods are safe for
// concurrent use, and may be called until Config.Ready's caller returns.
type Instance struct {
	// Rules are the published ports, which may be changed.
	Rules *portfwd.Table

	// Plan is the guest's network at the start.
	Plan plan.Plan

	supervisor *supervisor
	asking     chan struct{} // as many as there are questions to the engine
}

// maxAsking is how many questions the engine is asked at once. An answer about
// a full table of flows takes 20 MB while it is on its way.
const maxAsking = 4

// instance returns what others know the supervisor as.
func (s *supervisor) instance() *Instance {
	return &Instance{Rules: s.rules, Plan: s.plan, supervisor: s, asking: make(chan struct{}, maxAsking)}
}

// Alive tells whether the engine runs, and has given a sign of life when it was asked
// last.
func (i *Instance) Alive() bool {
	p := i.supervisor.ready()
	return p != nil && p.missed.Load() == 0
}

// Status returns what the instance is and how it does.
func (i *Instance) Status() Status { return i.supervisor.status() }

// Events returns what happens from now on, until stop is called, which must be.
// Whoever does not receive is not waited for: with 256 events waiting the channel
// is closed.
func (i *Instance) Events() (events <-chan Event, stop func()) {
	return i.supervisor.events.listen()
}

// ask puts a question to the engine.
func (i *Instance) ask(ctx context.Context, q query, part func(*answer)) error {
	select {
	case i.asking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-i.asking }()
	return i.supervisor.ask(ctx, q, part)
}

// Flows returns the live flows that are meant, in the order of their ids. The
// error is or wraps ErrNoEngine or ErrSilent if nobody knows at the moment.
func (i *Instance) Flows(ctx context.Context, which flow.Filter) ([]flow.Info, error) {
	var flows []flow.Info
	err := i.ask(ctx, query{Find: &which}, func(a *answer) { flows = append(flows, a.Flows...) })
	return flows, err
}

// Kill ends the flows that are meant, see flow.Flow.Kill, and returns how many
// these were. Errors are those of Flows.
func (i *Instance) Kill(ctx context.Context, which flow.Filter) (n int, err error) {
	err = i.ask(ctx, query{Kill: &which}, func(a *answer) { n = a.Killed })
	return n, err
}

// Statistics are what the engine has counted since its start.
type Statistics struct {
	Since    time.Time   // the engine's start
	Flows    flow.Totals // with those of rules
	Counters []Counter
	Limits   []Limit
}

// Statistics returns what the engine has counted. Errors are those of Flows.
func (i *Instance) Statistics(ctx context.Context) (Statistics, error) {
	st := Statistics{Since: i.supervisor.status().Since}
	rules := make(map[int]flow.RuleStats)
	err := i.ask(ctx, query{Count: true}, func(a *answer) {
		for _, r := range a.Rules {
			rules[r.Rule] = r.RuleStats
		}
		if a.Totals != nil {
			st.Flows, st.Counters, st.Limits = *a.Totals, namedCounts(a.Counts), namedLimits(a.Uses)
		}
	})
	if err == nil && (st.Counters == nil || st.Limits == nil) {
		err = errAnswer
	}
	st.Flows.Rules = rules
	return st, err
}
