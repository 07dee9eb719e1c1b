package engine

import (
	"context"
	"time"

	"taproot/stack/flow"
)

// maxQueries is how many queries wait in the engine; more are turned away.
const maxQueries = 16

// ask takes a query, or turns it away.
func (g *gateway) ask(w *wire, q *query) {
	select {
	case g.queries <- q:
	default:
		_ = w.send(message{Answer: &answer{ID: q.ID, Busy: true}}) // the supervisor may be gone
	}
}

// answerUntil answers queries until ctx ends. It is a goroutine of its own: the
// supervisor's other words do not wait for a long answer.
func (g *gateway) answerUntil(ctx context.Context) error {
	for {
		select {
		case q := <-g.queries:
			g.respond(q)
		case <-ctx.Done():
			return nil
		}
	}
}

// respond answers one query.
func (g *gateway) respond(q *query) {
	a := &answer{ID: q.ID}
	switch {
	case q.Find != nil:
		g.answerFlows(a, g.flows.Find(q.Find))
		return
	case q.Kill != nil:
		for _, f := range g.flows.Find(q.Kill) {
			f.Kill()
			a.Killed++
		}
	case q.Count:
		g.answerCounts(a)
		return
	}
	_ = g.wire.send(message{Answer: a}) // the supervisor may be gone
}

// answerFlows sends pages of flows, at least one.
func (g *gateway) answerFlows(a *answer, flows []*flow.Flow) {
	for {
		n := min(len(flows), pageFlows)
		a.Flows = make([]flow.Info, n)
		for i, f := range flows[:n] {
			a.Flows[i] = f.Info()
		}
		flows = flows[n:]
		a.More = len(flows) > 0
		if g.wire.send(message{Answer: a}) != nil || !a.More {
			return // the supervisor is gone, or that was all
		}
	}
}

// answerCounts sends all counters: pages of rules, and the rest with the last.
func (g *gateway) answerCounts(a *answer) {
	totals := g.flows.Totals()
	for id, s := range totals.Rules {
		if a.Rules = append(a.Rules, ruleCount{id, s}); len(a.Rules) == pageRules {
			a.More = true
			if g.wire.send(message{Answer: a}) != nil {
				return
			}
			a.Rules = nil
		}
	}
	totals.Rules = nil
	a.More, a.Totals, a.Counts, a.Uses = false, &totals, g.counts(), g.uses(&totals)
	_ = g.wire.send(message{Answer: a}) // the supervisor may be gone
}

// limitPause is how often the supervisor is told at most that flows have met a
// limit.
const limitPause = time.Second

// flowsFull is told by the table of flows.
func (g *gateway) flowsFull(p flow.Proto) {
	select {
	case g.limited <- p:
	default: // it is being told of another one
	}
}

// tellLimits tells the supervisor of flows that have met a limit, until ctx ends.
func (g *gateway) tellLimits(ctx context.Context) error {
	for {
		select {
		case p := <-g.limited:
			_ = g.wire.send(message{Limited: &p}) // the supervisor may be gone
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(limitPause):
		case <-ctx.Done():
			return nil
		}
	}
}
