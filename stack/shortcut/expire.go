package shortcut

import (
	"context"
	"time"

	"taproot/stack/flow"
)

const (
	// Patience is how long a SYN that was put back waits for the listener. The
	// guest's kernel needs microseconds for it; on a machine so busy that it takes
	// longer, the stack serves the connection as well.
	Patience = 300 * time.Millisecond

	// briefly is how long it waits when the last ones waited in vain, as behind a
	// firewall of the guest's that drops SYNs from outside: it is not likely that
	// this one is accepted, and the connection shall not be delayed by much.
	briefly = Patience / 6

	// adoption is how long the stack has to find out whether the guest still wants
	// a connection: as long as its SYN-ACK may need on a busy machine.
	adoption = time.Second

	// tolerance is how many in a row may be broken before the shortcut gives up,
	// where it has worked. Where it has not yet, the first one is enough.
	tolerance = 3
)

// patience is how long a SYN that was put back waits for the listener now.
func (s *Shortcut) patience() time.Duration {
	if s.doubtful.Load() {
		return briefly
	}
	return Patience
}

// prove says that the rules work.
func (s *Shortcut) prove() {
	s.strikes.Store(0)
	s.doubtful.Store(false)
	s.trial.Store(false)
}

// unproven says that the rules are new, and have to show that they work.
func (s *Shortcut) unproven() {
	s.strikes.Store(tolerance - 1)
	s.trial.Store(false)
}

// isOnTrial tells whether a SYN waits for the listener that is the first with
// these rules. Others do not wait along with it.
func (s *Shortcut) isOnTrial() bool { return s.trial.Load() && s.strikes.Load() >= tolerance-1 }

// watch looks after SYNs that were not accepted at once, until ctx ends.
func (s *Shortcut) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	running := true // the timer
	var handed []handover
	for {
		select {
		case <-ctx.Done():
			s.withdraw(handed)
			return
		case <-s.waiting:
			if !running {
				timer.Reset(s.patience() / 2)
			}
			running = true
		case now := <-timer.C:
			if handed, running = s.tick(handed, now); running {
				timer.Reset(s.patience() / 2)
			}
		}
	}
}

// tick is watch's work. It tells whether there will be more.
func (s *Shortcut) tick(handed []handover, now time.Time) ([]handover, bool) {
	expired, more := s.expire(now)
	handed = append(s.withdrawExpired(handed, now.Add(-adoption)), expired...)
	return handed, more || len(handed) > 0
}

// A handover is a flow that was given to the stack.
type handover struct {
	flow *flow.Flow
	at   time.Time
}

// expire gives the stack what was offered long before now and not accepted. It
// tells whether others are waiting.
func (s *Shortcut) expire(now time.Time) (handed []handover, more bool) {
	s.resume()
	for _, l := range s.listeners { // perhaps it was us who were late
		s.acceptUntil(l, flow.Key{})
	}
	expired, more := s.takeExpired(now.Add(-s.patience()))
	for _, a := range expired {
		s.trial.Store(false)
		if a.reset || a.flow.SetWay(flow.ByFrames) != nil {
			s.drop(a) // the guest's next SYN begins anew
			continue
		}
		s.hand(a)
		handed = append(handed, handover{a.flow, now})
	}
	return handed, more || s.paused()
}

// hand gives an attempt to the stack, with its connection to the target.
func (s *Shortcut) hand(a *attempt) {
	s.Stats.Handed.Add(1)
	s.cfg.TCP.Adopt(a.flow, a.host, s.adopted)
	s.cfg.Stack.Deliver(a.syn)
}

// adopted hears whether the guest took by way of the stack what it had not taken
// by the shortcut.
func (s *Shortcut) adopted(connected bool) {
	if !connected {
		return
	}
	s.Stats.Broken.Add(1)
	if s.strikes.Add(1) == tolerance {
		s.doubtful.Store(true)
		s.giveUp()
	}
}

// withdrawExpired resets what nobody has adopted since a time, and returns the
// rest.
func (s *Shortcut) withdrawExpired(handed []handover, before time.Time) []handover {
	n := 0
	for n < len(handed) && handed[n].at.Before(before) {
		n++
	}
	s.withdraw(handed[:n])
	return handed[n:]
}

func (s *Shortcut) withdraw(handed []handover) {
	for _, h := range handed {
		s.cfg.TCP.Withdraw(h.flow)
	}
}
