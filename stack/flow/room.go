package flow

import "time"

const (
	// EvictionsPerSecond is how many new flows of a kind may take the place of
	// others in a second where there are as many as may be; the rest is refused.
	// 2000 keep a flood's share of the processor to some 5 %, at 25 us for a socket
	// made, used and closed.
	EvictionsPerSecond = 2000

	// EvictionBurst is how many may do so at once.
	EvictionBurst = 200
)

// searched is how many flows MakeRoom looks at. In a flood nearly all are of it.
const searched = 16

// busy is how long ago an initiator that was answered and went on must have been
// heard of for its flow to give way: a table that is full of those that are not
// idle is full.
const busy = 2 * time.Second

// A Yielder is the Killer of a flow that may give way although it was answered.
type Yielder interface {
	Killer

	// Claim returns what speaks for the flow, or false where it does not give
	// way. It is called under the table's lock and must not block.
	Claim() (c Claim, yields bool)
}

// A Claim is what speaks for a flow that was answered.
type Claim struct {
	// Assured says that the initiator has gone on after the answer. One that
	// was invented does not hear what it was answered.
	Assured bool

	// Idle is how long nothing has gone either way.
	Idle time.Duration
}

// isWeaker tells whether a flow gives way before another.
func (c Claim) isWeaker(other Claim) bool {
	if c.Assured != other.Assured {
		return !c.Assured
	}
	return c.Idle > other.Idle
}

// MakeRoom ends a flow of a protocol, whoever owns it, and returns false if it finds
// none in a few tries that may be ended. The first is one that its target has never
// answered: in a full table it is most likely one of those who filled it. Then come
// those with a Yielder, the weakest Claim first. Only flows with a Killer are ended,
// which is called before MakeRoom returns and should close the flow.
func (t *Table) MakeRoom(p Proto) bool {
	f := t.weakest(p)
	if f == nil {
		return false
	}
	f.Kill()
	return true
}

// weakest returns a flow that Kill would end at once and that is the first to give
// way, or nil.
func (t *Table) weakest(p Proto) (found *Flow) {
	if p >= protos {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	var weakest Claim
	for f := range t.flows[p] { // in no order
		if f.ending.Load() == hasKiller {
			if f.ToInitiator.Load() == 0 {
				return f
			}
			if c, yields := f.claim(); yields && (found == nil || c.isWeaker(weakest)) {
				found, weakest = f, c
			}
		}
		if n++; n == searched {
			break
		}
	}
	return found
}

// claim returns what speaks for a flow that was answered and has a Killer, or false
// where it does not give way.
func (f *Flow) claim() (c Claim, yields bool) {
	y, ok := f.killer.(Yielder)
	if !ok {
		return Claim{}, false
	}
	c, yields = y.Claim()
	return c, yields && (!c.Assured || c.Idle >= busy)
}
