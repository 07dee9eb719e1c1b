package shortcut

import (
	"time"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
)

// A state is how far an attempt has come.
type state uint8

const (
	dialing state = iota // the target has not answered yet
	offered              // the SYN was put back
	past                 // joined or handed over; kept to know retransmissions
)

// An attempt is a connection of the guest's that is not joined yet. Fields
// without a remark do not change after it was entered.
type attempt struct {
	key  flow.Key
	flow *flow.Flow
	host int    // descriptor; belongs to whoever takes the attempt
	id   uint64 // of the poller; 0 unless it waits there

	// Under Shortcut.mu:
	syn   *stack.SYN // the last one
	state state
	since time.Time // when the state was entered

	// reset says that the target was connected and has reset the connection
	// already. It does not change once the SYN was put back.
	reset bool
}

// A finding is what is to be done with a SYN.
type finding uint8

const (
	isNew       finding = iota
	isSwallowed         // nothing: we are dialing, or it comes late
	isOffered           // to be put back again
	isTooMuch           // new, and there are too many
)

// look tells what is to be done with a SYN.
func (s *Shortcut) look(key flow.Key, syn *stack.SYN) finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.pending[key]
	switch {
	case a != nil && a.state == past && syn.Sequence == a.syn.Sequence:
		return isSwallowed
	case a == nil && len(s.pending) >= s.cfg.MaxPending:
		return isTooMuch
	case a == nil || a.state == past:
		return isNew
	case syn.Sequence == a.syn.Sequence && syn.TTL < a.syn.TTL:
		return isSwallowed // put back, and forwarded to us again: there are no rules
	}
	a.syn = syn
	if a.state == offered {
		return isOffered
	}
	return isSwallowed
}

// enter makes an attempt known.
func (s *Shortcut) enter(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[a.key] = a
}

// await gives an attempt an id, before the poller knows it.
func (s *Shortcut) await(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	a.id = s.lastID
	s.dialing[a.id] = a
}

// claim returns the attempt with an id, or nil. Until the poller's goroutine, which
// calls it, has gone on with it or given it back by await, nobody else may end it.
func (s *Shortcut) claim(id uint64) *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.dialing[id]
	delete(s.dialing, id)
	return a
}

// giveBack ends what claim began, for an attempt that still waits.
func (s *Shortcut) giveBack(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialing[a.id] = a
}

// evict takes any attempt whose target has not answered, or returns nil; not too
// often. Of a flood to targets that never answer it is most likely one of those; near
// targets answer long before their turn would come.
func (s *Shortcut) evict() *attempt {
	if !s.evictions.Allow() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.dialing { // in no order
		delete(s.dialing, id)
		delete(s.pending, a.key)
		return a
	}
	return nil
}

// offer moves an attempt on, and returns the SYN that is to be put back.
func (s *Shortcut) offer(a *attempt, reset bool) *stack.SYN {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dialing, a.id)
	a.state, a.since, a.reset = offered, time.Now(), reset
	return a.syn
}

// take takes an attempt, which is then the caller's alone.
func (s *Shortcut) take(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, a.key)
	delete(s.dialing, a.id)
}

// remember is how long an attempt must have taken for its SYN to be remembered
// after it, half the time after which kernels send it again (RFC 6298 §2.1). A
// late one would look like a new connection, and the target get one that nobody
// asked for.
const remember = 500 * time.Millisecond

// takeOffered takes the attempt whose SYN was put back for key, or returns nil.
func (s *Shortcut) takeOffered(key flow.Key) *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.pending[key]
	if a == nil || a.state != offered {
		return nil
	}
	if a.since.Sub(a.flow.Opened) < remember {
		delete(s.pending, key)
		return a
	}
	a.state, a.since = past, time.Now()
	s.call()
	return a
}

// takeExpired takes those that were offered before a time, forgets those that
// were past then, and tells whether others are left.
func (s *Shortcut) takeExpired(before time.Time) (expired []*attempt, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.pending {
		switch {
		case a.state == dialing:
		case a.since.After(before):
			more = true
		case a.state == past:
			delete(s.pending, a.key)
		default:
			a.state, a.since, more = past, time.Now(), true
			expired = append(expired, a)
		}
	}
	return expired, more
}

// abandon resets all attempts. Nobody is at work any more.
func (s *Shortcut) abandon() {
	s.mu.Lock()
	left := s.pending
	s.pending, s.dialing = nil, nil
	s.mu.Unlock()
	for _, a := range left {
		if a.state != past {
			s.drop(a)
		}
	}
}

// drop resets an attempt's connection.
func (s *Shortcut) drop(a *attempt) {
	socket.Reset(a.host)
	a.flow.Close()
}
