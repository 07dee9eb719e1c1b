package nat

import (
	"errors"

	"golang.org/x/time/rate"

	"taproot/stack/flow"
)

// openFlow opens a flow. In a full table it takes the place of one that was never
// answered, if there is any and not too often.
func (m *mapper) openFlow(k flow.Key) (*flow.Flow, error) {
	f, err := m.cfg.Flows.Open(k)
	if errors.Is(err, flow.ErrFull) && m.evictions.Allow() && m.cfg.Flows.MakeRoom(m.proto) {
		m.Stats.Evicted.Add(1)
		return m.cfg.Flows.Open(k)
	}
	return f, err
}

// newEvictions returns what says whether one may be evicted now.
func newEvictions() *rate.Limiter {
	return rate.NewLimiter(flow.EvictionsPerSecond, flow.EvictionBurst)
}

// Kill implements flow.Killer.
func (p *peer) Kill() { p.mapping.owner.endPeer(p) }

// endPeer ends a flow, unless it has ended.
func (m *mapper) endPeer(p *peer) {
	m.mu.Lock()
	if p.gone {
		m.mu.Unlock()
		return
	}
	var unused []*hostSocket
	if s := m.detachLocked(p); s != nil {
		unused = append(unused, s)
	}
	m.mu.Unlock()
	end([]*peer{p}, unused)
}
