package engine

import (
	"context"
	"fmt"
	"time"

	"taproot/internal/relay"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// yieldGrace is how long an engine that was asked to hand over its connections, and the
// next one, may go without any being passed on, and yieldMost how long all may take: 6,500
// connections take 0.6 to 2 seconds, and nothing moves meanwhile. An engine that waits is
// killed after startMost beats, which is longer.
const (
	yieldGrace = 4 * time.Second
	yieldMost  = 20 * time.Second
)

// retire ends the engine p, so that r takes over. If both understand it, p hands over
// its connections before; what it has not done in time is reset.
func (s *supervisor) retire(ctx context.Context, p *process, r *replacement) {
	defer p.stop()
	if p.handover != handoverFormat || r.process.handover != handoverFormat {
		return
	}
	p.yields.Store(true)
	if p.wire.try(message{Yield: true}) != nil {
		return // it is dead, or does not read
	}
	grace, most := time.NewTimer(yieldGrace), time.NewTimer(yieldMost)
	defer grace.Stop()
	defer most.Stop()
	for {
		select {
		case <-r.passed:
			grace.Reset(yieldGrace)
			continue
		case <-r.taken:
		case <-grace.C:
			s.log.Warn("connections not handed over in time", "idle", yieldGrace)
		case <-most.C:
			s.log.Warn("connections not handed over in time", "after", yieldMost)
		case <-s.kept:
		case <-ctx.Done():
		}
		return
	}
}

// handed passes connections on to the engine that waits to take over. An engine that
// hands over what none of ours would is killed. It owns fds.
func (s *supervisor) handed(from *process, h *handed, fds passed) {
	r := s.heir()
	if r == nil || r.refused || !from.yields.Load() {
		fds.close() // nobody has asked for them
		return
	}
	if h.lost {
		s.log.Warn("connections not handed over: too many open files", "flows", len(h.Flows))
		fds.close()
		h, fds = &handed{Last: h.Last}, nil
	}
	if err := h.check(fds, r.last); err != nil {
		s.log.Warn("connections not handed over", "error", err)
		r.refused = true
		fds.close()
		_ = from.process.Kill() // it is ours, or reaped
		return
	}
	if n := len(h.Flows); n > 0 {
		r.last = h.Flows[n-1].ID
	}
	rules := s.tcpRules()
	r.learnServers(s.log)
	fds = h.without(fds, func(f *handedFlow, p *relay.Passed) bool {
		return f.Inbound && !(accepted(rules[f.Rule], p.Ends[0]) && r.servers.accepts(p.Ends[0]))
	})
	defer fds.close()
	if r.flows+len(h.Flows) > maxOrphans {
		s.log.Warn("connections not handed over: more than there may be", "most", maxOrphans)
		r.refused = true
		return
	}
	if err := r.give(h, fds); err != nil {
		s.log.Warn("connections not handed over", "error", err)
		r.refused = true
		return
	}
	r.flows += len(h.Flows)
	select {
	case r.passed <- struct{}{}:
	default: // it is known
	}
}

// give sends connections to an engine that waits. One that does not read is not waited
// for.
func (r *replacement) give(h *handed, fds passed) error {
	w := r.process.wire
	_ = w.file.SetWriteDeadline(time.Now().Add(yieldGrace)) // it is a socket
	defer w.file.SetWriteDeadline(time.Time{})
	if err := w.sendPassed(message{Handed: h}, fds); err != nil {
		return fmt.Errorf("hand over %d flows: %w", len(h.Flows), err)
	}
	return nil
}

// heir returns the engine that waits to take over, or nil.
func (s *supervisor) heir() *replacement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// tcpRules returns the rules for TCP that there are, by id.
func (s *supervisor) tcpRules() map[int]portfwd.Rule {
	rules := make(map[int]portfwd.Rule)
	for _, e := range s.rules.List() {
		if e.Rule.Proto == flow.TCP && !e.Follows {
			rules[e.ID] = e.Rule
		}
	}
	return rules
}
