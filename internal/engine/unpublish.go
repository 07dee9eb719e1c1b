package engine

import (
	"fmt"
	"os"
	"sync"
	"time"

	"taproot/portfwd"
)

// closings are the rules whose sockets the engine has been asked to close. The
// zero value has none.
type closings struct {
	mu sync.Mutex
	// +checklocks:mu
	waiting map[int]chan struct{} // by the rule's id; closed when it has
}

func (c *closings) expect(rule int) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = make(map[int]chan struct{})
	}
	done := make(chan struct{})
	c.waiting[rule] = done
	return done
}

// done notes that a rule's sockets are closed, or that nobody waits for that any
// more.
func (c *closings) done(rule int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if done := c.waiting[rule]; done != nil {
		delete(c.waiting, rule)
		close(done)
	}
}

// unpublishGrace is how long an engine may take to close sockets.
const unpublishGrace = 5 * time.Second

// Unpublish implements portfwd.Carrier.
func (c carrier) Unpublish(id int, existing portfwd.Existing) (closed func() error, err error) {
	m := message{Unpublish: id, EndFlows: existing == portfwd.ExistingKilled}
	engine, done := c.s.unpublishing(m), c.s.closings.expect(id)
	if err := sent(engine.wire.send(m)); err != nil {
		c.s.closings.done(id)
		return nil, err
	}
	return func() error {
		defer c.s.outlive()
		defer c.s.closings.done(id)
		timeout := time.NewTimer(unpublishGrace)
		defer timeout.Stop()
		select {
		case <-done:
		case <-engine.exited:
		case <-timeout.C:
			return fmt.Errorf("the engine has not closed its sockets yet: %w", os.ErrDeadlineExceeded)
		}
		return nil
	}, nil
}

// unpublishing returns the engine that is to be told that a rule is gone, and keeps
// that for the one that waits to take over, if one does: it may have the rule's
// connections already.
func (s *supervisor) unpublishing(m message) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exchanging {
		s.removed = append(s.removed, m)
	}
	return s.engine
}

// takeRemoved returns the words that were kept, after engineIs: who is told later is
// the next engine itself.
func (s *supervisor) takeRemoved() []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	removed := s.removed
	s.removed = nil
	return removed
}

// exchanges says whether an engine takes over from another now.
func (s *supervisor) exchanges(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanging, s.removed = yes, nil
}
