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

	// tick is how often it is looked at while there is something to wait for.
	tick = Patience / 2

	// adoption is how long the stack has to find out whether the guest still wants
	// a connection: as long as its SYN-ACK may need on a busy machine.
	adoption = time.Second

	// tolerance is how many in a row may be broken before the shortcut gives up.
	tolerance = 3
)

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
				timer.Reset(tick)
			}
			running = true
		case now := <-timer.C:
			if handed, running = s.tick(handed, now); running {
				timer.Reset(tick)
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
	expired, more := s.takeExpired(now.Add(-Patience))
	for _, a := range expired {
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
