package shortcut

import (
	"net/netip"
	"syscall"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/policy"
	"taproot/stack/shortcut/mark"
)

// Handle does what there is to do about a SYN, and returns false if the stack
// shall have it. It does not block.
func (s *Shortcut) Handle(syn *stack.SYN) bool {
	if !s.start() {
		return false
	}
	defer s.handling.Done()
	key := keyOf(syn)
	found := s.look(key, syn)
	if (found == isNew || found == isTooMuch) && !s.wants(syn) {
		return false
	}
	switch found {
	case isNew, isTooMuch:
		s.begin(key, syn, found == isTooMuch)
	case isOffered:
		s.putBack(key, syn)
	}
	return true
}

// wants tells whether a connection that begins may go this way.
func (s *Shortcut) wants(syn *stack.SYN) bool {
	return s.enabled.Load() && !s.isOnTrial() && s.listenerFor(syn.Source.Addr()) != nil && !s.cfg.Except(syn.Destination)
}

// start counts a SYN that is being handled. It returns false when Run is over,
// after which nobody may be counted.
func (s *Shortcut) start() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.handling.Add(1)
	}
	return !s.over
}

// begin asks the policy, enters a flow and dials. Where there are too many pending,
// another one makes room first, or the SYN is dropped as by a full listen queue; a
// target that is denied takes nobody's place.
func (s *Shortcut) begin(key flow.Key, syn *stack.SYN, tooMuch bool) {
	target, err := s.cfg.Rules.Check(policy.TCP, key.Target)
	if err != nil {
		s.answer(syn, err)
		return
	}
	if tooMuch && !s.makeRoom() {
		return
	}
	f, err := s.cfg.Flows.OpenBy(key, flow.Shortcut)
	if err != nil {
		s.answer(syn, err)
		return
	}
	a := &attempt{key: key, flow: f, syn: syn, since: f.Opened}
	if a.host, err = s.cfg.Stream(target.Addr()); err != nil {
		f.Close()
		s.answer(syn, err)
		return
	}
	s.enter(a)
	s.dial(a, target)
}

// makeRoom ends an attempt whose target has not answered, and tells whether there
// was one that may be ended. Otherwise the SYN is dropped.
func (s *Shortcut) makeRoom() bool {
	a := s.evict()
	if a == nil {
		s.Stats.Overflown.Add(1)
		return false
	}
	s.Stats.Evicted.Add(1)
	s.drop(a)
	return true
}

// dial connects an attempt's socket. If the target does not answer at once, the
// poller waits for it.
func (s *Shortcut) dial(a *attempt, target netip.AddrPort) {
	to := socket.NewAddress(target)
	err := socket.Start(a.host, &to)
	if err == syscall.EINPROGRESS {
		s.await(a)
		if err = s.poller.AddConnecting(a.host, a.id); err == nil {
			return
		}
	}
	s.dialed(a, err)
}

// progress goes on where the poller has seen something.
func (s *Shortcut) progress(id uint64) {
	a := s.claim(id)
	if a == nil {
		return
	}
	err := socket.Progress(a.host)
	if err == syscall.EINPROGRESS {
		s.giveBack(a)
		return
	}
	_ = s.poller.Remove(a.host) // it is there
	s.dialed(a, err)
}

// dialed goes on when the target has answered.
func (s *Shortcut) dialed(a *attempt, err error) {
	reset := socket.IsReset(err)
	if err == nil || reset {
		s.putBack(a.key, s.offer(a, reset))
		return
	}
	s.take(a)
	s.drop(a)
	s.answer(a.syn, err)
}

// putBack offers a SYN to the guest's listener, which usually has accepted when
// the device has taken the frame.
func (s *Shortcut) putBack(key flow.Key, syn *stack.SYN) {
	s.Stats.PutBack.Add(1)
	if err := s.cfg.Stack.PutBack(syn, mark.Local); err == nil {
		if s.acceptUntil(s.listenerFor(syn.Source.Addr()), key) {
			return
		}
	}
	s.trial.Store(true)
	s.call()
}

// call makes watch look after what was put back.
func (s *Shortcut) call() {
	select {
	case s.waiting <- struct{}{}:
	default: // it was told
	}
}

// answer tells the guest why there is no connection.
func (s *Shortcut) answer(syn *stack.SYN, err error) {
	answer := s.Stats.Answer(err, s.cfg.Denied)
	if answer.Reset {
		_ = s.cfg.Stack.Reset(syn) // counted by the link
	} else if !s.cfg.Unreachable(answer.Kind, syn.Header()) {
		s.Stats.Suppressed.Add(1)
	}
	s.cfg.Log.Debug("no connection", "proto", "tcp", "initiator", syn.Source, "target", syn.Destination, "error", err)
}

// poll serves the poller's events until it is closed.
func (s *Shortcut) poll() error {
	var ready []socket.Readiness
	for {
		var err error
		if ready, err = s.poller.Wait(ready[:0]); err != nil {
			return err
		}
		for _, r := range ready {
			if r.ID < uint64(len(s.listeners)) {
				s.acceptUntil(s.listeners[r.ID], flow.Key{})
			} else {
				s.progress(r.ID)
			}
		}
	}
}
