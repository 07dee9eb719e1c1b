package nat

import (
	"errors"

	"golang.org/x/time/rate"

	"taproot/stack/flow"
)

const (
	// EvictionsPerSecond is how many new flows may take the place of others in a
	// second where there are as many as may be; the rest is refused. 2000 keep a
	// flood's share of the processor to some 5 %, at 25 us for a socket made, used
	// and closed.
	EvictionsPerSecond = 2000

	// EvictionBurst is how many may do so at once.
	EvictionBurst = 200
)

// searched is how many peers makeRoom looks at, for what never was answered. In a
// flood nearly all are such.
const searched = 16

// openFlow opens a flow. In a full table it takes the place of one that was never
// answered, if there is any and not too often.
func (m *mapper) openFlow(k flow.Key) (*flow.Flow, error) {
	f, err := m.cfg.Flows.Open(k)
	if errors.Is(err, flow.ErrFull) && m.evictions.Allow() && m.makeRoom() {
		return m.cfg.Flows.Open(k)
	}
	return f, err
}

// newEvictions returns what says whether one may be evicted now.
func newEvictions() *rate.Limiter { return rate.NewLimiter(EvictionsPerSecond, EvictionBurst) }

// makeRoom ends a flow that was never answered. It returns false if it finds none.
func (m *mapper) makeRoom() bool {
	p, s := m.unanswered()
	if p == nil {
		return false
	}
	var unused []*hostSocket
	if s != nil {
		unused = append(unused, s)
	}
	m.Stats.Evicted.Add(1)
	end([]*peer{p}, unused)
	return true
}

// unanswered takes a peer that was never answered out of the tables, or returns
// nil. The socket is that of its mapping, if that has no other.
func (m *mapper) unanswered() (*peer, *hostSocket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, p := range m.peers { // in no order
		if p.flow.ToInitiator.Load() == 0 {
			return p, m.detachLocked(p)
		}
		if n++; n == searched {
			break
		}
	}
	return nil, nil
}
