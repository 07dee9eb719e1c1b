package shortcut

import (
	"context"
	"log/slog"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack/flow"
)

// acceptUntil accepts connections until there are none, or the one that is
// wanted was among them, which is then true.
func (s *Shortcut) acceptUntil(l *listener, wanted flow.Key) bool {
	for {
		fd, client, err := socket.AcceptFrom(l.fd)
		switch err {
		case nil:
			if s.welcome(fd, client) == wanted {
				return true
			}
		case syscall.EAGAIN:
			return false
		case syscall.EMFILE, syscall.ENFILE:
			if !s.shed(l) {
				s.pause(l)
				return false
			}
		case syscall.ECONNABORTED, syscall.EINTR: // of that one connection, accept(2)
		default: // EPERM and EACCES of a security module leave the connection where it is
			s.pause(l)
			return false
		}
	}
}

// welcome joins a connection that was accepted with what it was offered for, and
// returns its key. One that was not offered is reset.
func (s *Shortcut) welcome(fd int, client netip.AddrPort) (key flow.Key) {
	wanted, err := socket.LocalAddress(fd)
	var a *attempt
	if err == nil {
		key = flow.Key{Proto: flow.TCP, Initiator: unmap(client), Target: unmap(wanted)}
		a = s.takeOffered(key)
	}
	if a == nil {
		s.Stats.Unknown.Add(1)
		socket.Reset(fd)
		return key
	}
	s.prove()
	if a.reset {
		socket.PassOn(a.host, fd)
		socket.Reset(fd)
		s.drop(a)
		return key
	}
	s.join(fd, a)
	return key
}

// join gives a connection to the Mover.
func (s *Shortcut) join(fd int, a *attempt) {
	f := a.flow
	done := func(inOrder bool) { s.ended(f, inOrder) }
	s.bonds.know(f)
	if err := s.cfg.Mover.Join(fd, a.host, relay.Counters{Outbound: &f.ToTarget, Inbound: &f.ToInitiator, Owner: f}, done); err != nil {
		s.bonds.forget(f)
		f.Close()
		s.Stats.Exhausted.Add(1)
		s.cfg.Log.Debug("no connection", "proto", "tcp", "initiator", f.Initiator, "target", f.Target, "error", err)
		return
	}
	s.Stats.Connected.Add(1)
}

// ended is told by the Mover.
func (s *Shortcut) ended(f *flow.Flow, inOrder bool) {
	s.bonds.forget(f)
	f.Close()
	if !s.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		return // before the numbers are made values of interfaces
	}
	s.cfg.Log.Debug("flow ended", "proto", "tcp", "way", f.Way(), "initiator", f.Initiator, "target", f.Target,
		"in_order", inOrder, "to_target", f.ToTarget.Load(), "to_initiator", f.ToInitiator.Load())
}

// shed resets one connection that cannot be accepted, with the descriptor in
// reserve. It returns false if somebody else has it.
func (s *Shortcut) shed(l *listener) bool {
	spare := s.spare.Swap(-1)
	if spare < 0 {
		return false
	}
	unix.Close(int(spare))
	fd, client, err := socket.AcceptFrom(l.fd)
	if err == nil {
		s.refuse(fd, client)
	}
	return s.reserve(l.fd) == nil && err == nil
}

// refuse resets a connection that there is no descriptor for.
func (s *Shortcut) refuse(fd int, client netip.AddrPort) {
	wanted, err := socket.LocalAddress(fd)
	socket.Reset(fd)
	if err != nil {
		return
	}
	if a := s.takeOffered(flow.Key{Proto: flow.TCP, Initiator: unmap(client), Target: unmap(wanted)}); a != nil {
		s.Stats.Exhausted.Add(1)
		s.drop(a)
	}
}

// reserve keeps one descriptor for shed, if there is none.
func (s *Shortcut) reserve(fd int) error {
	if s.spare.Load() >= 0 {
		return nil
	}
	spare, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil && !s.spare.CompareAndSwap(-1, int64(spare)) {
		unix.Close(spare)
	}
	return err
}

// pause makes the poller not look at a listener for a while, at which nothing
// can be accepted.
func (s *Shortcut) pause(l *listener) {
	if !l.paused.Swap(true) {
		_ = s.poller.Remove(l.fd) // it is there
		s.call()
	}
}

// resume ends pauses, if there is a descriptor in reserve again. Should a listener
// not get back to the poller, it stays paused.
func (s *Shortcut) resume() {
	for i, l := range s.listeners {
		if l.paused.Load() && s.reserve(l.fd) == nil && s.poller.Add(l.fd, uint64(i)) == nil {
			l.paused.Store(false)
		}
	}
}

// paused tells whether one of the listeners is.
func (s *Shortcut) paused() bool {
	for _, l := range s.listeners {
		if l.paused.Load() {
			return true
		}
	}
	return false
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
