package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"taproot/stack/policy"
	"taproot/userns"
)

// A divertState tells the engine of the rules in the guest's namespace that the
// shortcut needs.
type divertState struct {
	// First is set in the message for which an engine with spec.Divert waits
	// before it is ready. It comes with the listeners to which the rules lead, or
	// without any if there is no shortcut.
	First bool `json:",omitempty"`

	// On says that the rules stand.
	On bool

	// Suspended says that the rules were taken away for longer.
	Suspended bool `json:",omitempty"`

	// Clients is how many of the sockets that come with the first message are packet
	// sockets, the last ones; see userns.Diversion.Clients.
	Clients int `json:",omitempty"`
}

// A diversion is the supervisor's side of the shortcut.
type diversion struct {
	// doubted tells that the engine sees the rules do nothing.
	doubted chan struct{}

	// rules is nil if there are none; it does not change after the start.
	rules *userns.Diversion

	// mu is held while the engine is told, so that what it heard last is true.
	mu sync.Mutex
	// +checklocks:mu
	on bool
	// why is the reason for it not to be on.
	// +checklocks:mu
	why error
}

// status tells whether the rules stand, or why not.
func (d *diversion) status() (on bool, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.on && d.why != nil {
		why = d.why.Error()
	}
	return d.on, why
}

// without notes why the rules do not stand.
func (d *diversion) without(why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.why = why
}

// Reasons for all TCP to go by frames.
var (
	errDivertOff     = errors.New("shortcut: switched off")
	errDivertDevice  = errors.New("shortcut: it needs a device with offloads")
	errDivertCapture = errors.New("shortcut: a capture would miss what takes it")
	errDivertLater   = errors.New("shortcut: the device is not set up yet")
	errDivertForeign = errors.New("shortcut: the namespace belongs to another user")
)

// wantsDivert returns why the shortcut is out of the question, or nil.
func (s *supervisor) wantsDivert() error {
	switch {
	case s.cfg.Shortcut == ShortcutOff || s.cfg.Without.TCP:
		return errDivertOff
	case s.device == nil || !s.spec.Features.Header:
		return errDivertDevice
	case s.cfg.Capture != nil:
		return errDivertCapture
	}
	ns, err := s.world.namespace()
	if err != nil {
		return fmt.Errorf("shortcut: %w", err)
	}
	if !ns.Owned() && s.cfg.Shortcut != ShortcutOn {
		return errDivertForeign
	}
	return nil
}

// divert makes the rules of the shortcut. An error means that the user insists on
// it.
func (s *supervisor) divert(ctx context.Context) error {
	ns, err := s.world.namespace()
	if err != nil {
		return err
	}
	rules, err := ns.Divert(ctx, userns.Divert{
		Interface: s.plan.Interface,
		Gateway:   s.plan.GatewayMAC,
		Except:    s.exceptDivert(),
		Nested:    policy.Behind(),
		Later:     s.leavesDown(),
		Outlives:  s.world.outlives(),
		Device:    s.device,
	})
	if err != nil {
		return s.noShortcut(err)
	}
	s.log.Debug("rules of the shortcut made", "later", s.leavesDown(), "nested", rules.Nested())
	s.diversion.rules = rules
	s.diversion.without(errDivertLater)
	s.diversion.mu.Lock()
	defer s.diversion.mu.Unlock()
	s.diversion.on = !s.leavesDown()
	return nil
}

// leavesDown tells whether somebody else sets the device up.
func (s *supervisor) leavesDown() bool { return s.cfg.Down || s.world.bare() }

// noShortcut returns why there is none to a user who insists, and tells others.
func (s *supervisor) noShortcut(why error) error {
	if s.cfg.Shortcut == ShortcutOn {
		return why
	}
	s.diversion.without(why)
	s.log.Info("TCP goes by frames", "why", why)
	return nil
}

// exceptDivert returns where the gateway itself serves TCP.
func (s *supervisor) exceptDivert() []netip.Addr {
	if s.cfg.DNS.Off {
		return nil
	}
	return valid(s.plan.V4.Resolver, s.plan.V6.Resolver)
}

// tellFirst gives a new engine the listeners.
func (d *diversion) tellFirst(engine *process) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var listeners, clients []*os.File
	if d.rules != nil {
		listeners, clients = d.rules.Listeners(), d.rules.Clients()
	}
	state := divertState{First: true, On: d.on, Clients: len(clients)}
	return engine.wire.send(message{Divert: &state}, slices.Concat(listeners, clients)...)
}

// divertPause is how long it takes before rules are made that were changed or left
// for later: whoever sets up the guest's firewall or the device may be in the
// middle of it. It doubles each time up to divertLongest, and begins anew after a
// time of that length without a change.
const (
	divertPause   = time.Second
	divertLongest = 10 * time.Minute
)

// keepDiversion makes the rules of the shortcut where they were left for later,
// and again when somebody in the guest has changed them, until ctx ends. TCP goes
// by frames meanwhile.
func (s *supervisor) keepDiversion(ctx context.Context) {
	pause, since := divertPause, time.Now()
	for {
		if s.diverts() {
			why := s.diversionLost(ctx)
			if ctx.Err() != nil {
				return
			}
			s.setDivert(false, why)
			s.log.Info("TCP goes by frames for a while", "why", why)
			if time.Since(since) > divertLongest {
				pause = divertPause
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, divertLongest)
		if s.trackingFull() {
			s.suspended()
			continue
		}
		if err := s.diversion.rules.Restore(ctx); err != nil {
			s.log.Debug("rules of the shortcut not made", "error", err)
			continue
		}
		since = time.Now()
		select {
		case <-s.diversion.doubted: // of what stood before
		default:
		}
		s.setDivert(true, nil)
		s.log.Debug("TCP takes the shortcut")
	}
}

// suspended tells the engine that the rules, which did not stand, will not soon.
func (s *supervisor) suspended() {
	s.diversion.mu.Lock()
	known := s.diversion.why == errDivertFull
	s.diversion.mu.Unlock()
	if !known {
		s.setDivert(false, errDivertFull)
	}
}

// diverts tells whether the rules stand as far as we know.
func (s *supervisor) diverts() bool {
	s.diversion.mu.Lock()
	defer s.diversion.mu.Unlock()
	return s.diversion.on
}

// Reasons for rules to be made again.
var (
	errDivertChanged = errors.New("somebody has changed the rules of the shortcut")
	errDivertDoubted = errors.New("what the rules of the shortcut divert does not arrive")
	errDivertFull    = errors.New("connection tracking of the namespace is full")
)

// trackedPause is how often connection tracking is asked how full it is, and
// trackedMost how full it may be, in percent: at its limit nothing that is new gets
// out of the guest, by no way. Nobody tells when it comes near.
const (
	trackedPause = 15 * time.Second
	trackedMost  = 95
)

// diversionLost waits until the rules are not what they should be, and returns
// why.
func (s *supervisor) diversionLost(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = s.diversion.rules.Wait(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	tick := time.NewTicker(trackedPause)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return cmp.Or(err, errDivertChanged)
		case <-s.diversion.doubted:
			return errDivertDoubted
		case <-tick.C:
			if s.trackingFull() {
				return errDivertFull
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// trackingFull tells whether the namespace's connection tracking is about to drop
// what is new, and takes the rules away if so: without them it is off, or the
// guest's own affair.
func (s *supervisor) trackingFull() bool {
	now, limit, err := s.diversion.rules.Tracked()
	if err != nil || !nearlyFull(now, limit) {
		return false
	}
	if err := s.diversion.rules.Suspend(); err != nil {
		s.log.Debug("rules of the shortcut not suspended", "error", err)
	}
	return true
}

// nearlyFull tells whether a table with now of at most limit entries is full for
// our purpose. A limit of 0 is none.
func nearlyFull(now, limit int) bool { return limit > 0 && now >= limit-limit*(100-trackedMost)/100 }

// setDivert tells the engine whether the rules stand, or why not.
func (s *supervisor) setDivert(on bool, why error) {
	d := &s.diversion
	d.mu.Lock()
	defer d.mu.Unlock()
	d.on, d.why = on, why
	if on {
		s.events.tell(EventShortcutOn, "")
	} else {
		s.events.tell(EventShortcutOff, why.Error())
	}
	state := divertState{On: on, Suspended: why == errDivertFull}
	if err := s.current().wire.send(message{Divert: &state}); err != nil {
		s.log.Debug("state of the shortcut not sent", "error", err) // the next engine gets it
	}
}

// undivert removes the rules. It comes after the engine's end.
func (s *supervisor) undivert() {
	if s.diversion.rules == nil {
		return
	}
	if err := s.diversion.rules.Remove(); err != nil {
		s.log.Debug("rules of the shortcut not removed", "error", err) // the namespace may be gone
	}
	closeAll(s.diversion.rules.Listeners())
	closeAll(s.diversion.rules.Clients())
}
