package shortcut

import (
	"sync"
	"sync/atomic"
	"time"

	"taproot/stack"
	"taproot/stack/flow"
)

// bonds are the connections that were joined: those whose segments have no business
// in a frame.
type bonds struct {
	suspended atomic.Bool // no rules will stand soon

	mu sync.Mutex
	// +checklocks:mu
	flows map[flow.Key]*flow.Flow
	// +checklocks:mu
	straying map[*flow.Flow]straying
}

// A straying is what is known of a connection whose segments come as frames.
type straying struct {
	sequence, acknowledgement uint32    // the farthest of its segments
	since                     time.Time // when these were seen first
}

// newBonds returns none.
func newBonds() *bonds {
	return &bonds{flows: make(map[flow.Key]*flow.Flow), straying: make(map[*flow.Flow]straying)}
}

// know makes a connection known.
func (b *bonds) know(f *flow.Flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flows[f.Key] = f
}

// forget ends that.
func (b *bonds) forget(f *flow.Flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flows[f.Key] == f { // or the port is in use again
		delete(b.flows, f.Key)
	}
	delete(b.straying, f)
}

// find returns the connection of a key, nil if there is none.
func (b *bonds) find(key flow.Key) *flow.Flow {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flows[key]
}

// isStuck tells whether a connection has made no progress since longer than
// loyalty, by this segment, which it notes, or cannot make any.
func (b *bonds) isStuck(f *flow.Flow, seg *stack.Stray) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flows[f.Key] != f { // it has ended meanwhile, and nobody forgets it again
		return false
	}
	if b.suspended.Load() {
		return true
	}
	now := time.Now()
	last, known := b.straying[f]
	// Sequence numbers are compared as RFC 9293 section 3.4 has it.
	if known && int32(seg.Sequence-last.sequence) <= 0 && int32(seg.Acknowledgement-last.acknowledgement) <= 0 {
		return now.Sub(last.since) > loyalty
	}
	b.straying[f] = straying{seg.Sequence, seg.Acknowledgement, now}
	return false
}
