package shortcut

import (
	"time"

	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/shortcut/mark"
)

// loyalty is how long a connection that makes no progress by segments which are
// put back is kept while the rules are known not to stand. Whoever loads a
// firewall anew needs less, and so does the supervisor to make ours again.
const loyalty = 30 * time.Second

// HandleStray does what there is to do about a segment that the stack would
// answer with RST, and returns false if it shall. One of a connection that was
// joined or is about to be says that the rules did not lead it inside: it is put back, to be led
// there by those for what is put back. The connection is slower by that, but not
// lost, and when the rules work again they take it over. A connection that lasts on
// that for too long, or whose rules are suspended, is reset. HandleStray does not block.
func (s *Shortcut) HandleStray(seg *stack.Stray) bool {
	f, offered := s.strayed(seg)
	switch {
	case f == nil && !offered:
		return false
	case seg.DSCP == mark.Local: // put back, and forwarded to us again: there are no rules
		return true
	case f != nil && s.bonds.isStuck(f, seg) && !s.enabled.Load():
		f.Kill()
		return true
	}
	s.Stats.Strayed.Add(1)
	_ = s.cfg.Stack.PutBackStray(seg, mark.Local) // counted by the link
	return true
}

// strayed returns the joined connection of a segment, or else nil and whether its SYN
// was put back and it is about to be joined: it may be the last of the handshake. A
// connection that began with the rules of now is proof that they do not work.
func (s *Shortcut) strayed(seg *stack.Stray) (f *flow.Flow, isOffered bool) {
	key := flow.Key{Proto: flow.TCP, Initiator: seg.Source, Target: seg.Destination}
	f = s.bonds.find(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	began := f
	if a := s.pending[key]; f == nil && a != nil && a.state == offered {
		began, isOffered = a.flow, true
	}
	if began != nil && began.Opened.After(s.enabledAt) {
		s.giveUp()
	}
	return f, isOffered
}

// giveUp says that the rules do not work, once.
func (s *Shortcut) giveUp() {
	if s.enabled.CompareAndSwap(true, false) {
		s.cfg.Broken()
	}
}
