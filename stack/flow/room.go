package flow

const (
	// EvictionsPerSecond is how many new flows of a kind may take the place of
	// others in a second where there are as many as may be; the rest is refused.
	// 2000 keep a flood's share of the processor to some 5 %, at 25 us for a socket
	// made, used and closed.
	EvictionsPerSecond = 2000

	// EvictionBurst is how many may do so at once.
	EvictionBurst = 200
)

// searched is how many flows MakeRoom looks at, for one that was never answered.
// In a flood nearly all are such.
const searched = 16

// MakeRoom ends a flow of a protocol that its target has never answered, whoever
// owns it, and returns false if it finds none in a few tries: in a full table it is
// most likely one of those who filled it. Only flows with a Killer are ended, which
// is called before MakeRoom returns and should close the flow.
func (t *Table) MakeRoom(p Proto) bool {
	f := t.unanswered(p)
	if f == nil {
		return false
	}
	f.Kill()
	return true
}

// unanswered returns a flow without an answer that Kill would end at once, or nil.
func (t *Table) unanswered(p Proto) *Flow {
	if p >= protos {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for f := range t.flows[p] { // in no order
		if f.ToInitiator.Load() == 0 && f.ending.Load() == hasKiller {
			return f
		}
		if n++; n == searched {
			break
		}
	}
	return nil
}
