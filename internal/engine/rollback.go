package engine

import (
	"context"
	"fmt"
	"time"
)

// trialBeats is for how many beats of the watchdog another program is on trial after it
// has taken over: one that says nothing is killed within four, and most of what is
// wrong with a build shows at once. It is no longer than that: whoever can end engines
// by what the guest sends would otherwise choose which build there is.
const trialBeats = 5

// A trial is what there is to go back to from a program that engines are made of.
type trial struct {
	before *build // the program before, nil for our own; or one that has failed
	until  time.Time
	on     bool
	heir   bool // its engine goes on with connections that the one before had
}

// setBinary sets what engines are from now on. Another program than before is on trial
// first: if its engine dies soon, engines are made of the one before again. heir tells
// whether that has inherited connections.
func (s *supervisor) setBinary(b *build, heir bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b == s.binary {
		return
	}
	s.trial.before.closeUnless(b)
	s.trial = trial{before: s.binary, until: s.trialEnd(), on: true, heir: heir}
	s.binary, s.rolledBack = b, ""
}

// trialEnd returns when a trial is over that begins now.
func (s *supervisor) trialEnd() time.Time { return time.Now().Add(trialBeats * s.beatLength()) }

// closeBinaries closes all programs. No engine is started any more.
func (s *supervisor) closeBinaries() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trial.before.closeUnless(s.binary)
	s.binary.closeUnless(nil)
	s.trial, s.binary = trial{}, nil
}

// rollBack has engines made of the program before again, if the one of now, whose
// engine has died, is on trial.
//
// An engine that has inherited connections may have died of them: if the one before was
// taken over, the guest has copies of their sockets perhaps, and can have any call wait
// that is made on these. That must not lead back to the program with the hole. So the
// first such death is forgiven, and the trial begins again, with an engine that has
// inherited nothing.
func (s *supervisor) rollBack(why error) {
	s.mu.Lock()
	t := &s.trial
	if !t.on || time.Now().After(t.until) {
		t.on = false
		s.mu.Unlock()
		return
	}
	if t.heir {
		t.heir, t.until = false, s.trialEnd()
		s.mu.Unlock()
		return
	}
	failed := s.binary
	s.binary, t.before, t.on = t.before, failed, false // which somebody may be starting: it is closed later
	s.rolledBack = fmt.Sprintf("%s: %v", nameOf(failed), why)
	story, now := s.rolledBack, s.binary
	s.mu.Unlock()
	s.log.Warn("engines are made of the program before again", "program", nameOf(now), "failed", nameOf(failed), "error", why)
	s.events.tell(EventEngineRolledBack, story)
}

// nameOf names a program for people.
func nameOf(b *build) string {
	if b == nil {
		return "the instance's own program"
	}
	return b.path
}

// prove waits until an engine that has taken over has given a sign of life. The error
// is why it has not.
func (s *supervisor) prove(ctx context.Context, r *replacement, isOther bool) error {
	p, more := r.process, uint64(0)
	err := p.signs.ask(func() error { return p.wire.try(message{Ping: true}) })
	if err != nil { // it does not read yet, or is dead, which is seen below
		s.log.Debug("engine not asked", "error", err)
		more = 1 // by the watchdog
	}
	select {
	case <-p.signs.all(more): // what it said before it took over is no sign
		return nil
	case <-p.exited:
	case <-s.kept:
		return ErrNoEngine
	case <-ctx.Done():
		return ctx.Err()
	}
	err = fmt.Errorf("the other engine has taken over and ended: %w", p.ended(errEnded))
	switch {
	case isOther && r.flows > 0:
		return fmt.Errorf("%w; its program is tried once more, without the connections", err)
	case isOther:
		return fmt.Errorf("%w; engines are made of the program before again", err)
	}
	return err
}
