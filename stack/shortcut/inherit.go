package shortcut

import (
	"errors"
	"fmt"
	"net/netip"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack/flow"
	"taproot/stack/policy"
)

// Inherit goes on with a connection from the guest that another process had: ends are
// the guest's socket and the host's. It may be called before Run. The flow's addresses
// are checked against the policy as if it began now, and the sockets against the
// addresses: whoever had it may have been the guest's. An error leaves both to the
// caller, who resets the connection.
func (s *Shortcut) Inherit(f *flow.Flow, p *relay.Passed) error {
	target, err := s.cfg.Rules.Check(policy.TCP, f.Target)
	if err != nil {
		return err
	}
	if !s.cfg.Rules.Source(f.Initiator.Addr()) {
		return fmt.Errorf("source %v: %w", f.Initiator, errForeign)
	}
	l := s.listenerFor(f.Initiator.Addr())
	if l == nil {
		return fmt.Errorf("source %v: %w", f.Initiator, errForeign)
	}
	if err := socket.SameNamespace(p.Ends[0], l.fd); err != nil {
		return err
	}
	if err := socket.CheckInherited(p.Ends[0], f.Target, f.Initiator, p.Finished[1]); err != nil {
		return err
	}
	if err := socket.CheckInherited(p.Ends[1], netip.AddrPort{}, target, p.Finished[0]); err != nil {
		return err
	}
	done := func(inOrder bool) { s.ended(f, inOrder) }
	s.bonds.know(f)
	if err := s.cfg.Mover.JoinPassed(p, relay.Counters{Outbound: &f.ToTarget, Inbound: &f.ToInitiator, Owner: f}, done); err != nil {
		s.bonds.forget(f)
		return err
	}
	return nil
}

// errForeign says that the guest has no such address.
var errForeign = errors.New("not the guest's")

// Inherit says that a flow has a connection to the guest by a socket that another
// process had, as Joined does for one of Dial's: fd is inside the guest, and from the
// flow's initiator to its target, or over at that end where ended is true.
func (d *Dialer) Inherit(f *flow.Flow, fd int, ended bool) error {
	i := index(f.Initiator.Addr())
	if d.copies[i] < 0 {
		return fmt.Errorf("source %v: %w", f.Initiator, errForeign)
	}
	if err := socket.SameNamespace(fd, d.copies[i]); err != nil {
		return err
	}
	if err := socket.CheckInherited(fd, f.Initiator, f.Target, ended); err != nil {
		return err
	}
	d.bonds.know(f)
	return nil
}
