package portfwd

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
)

// A SocketID names a socket of a rule, as Listener.Rule and Listener.Index do.
type SocketID struct{ Rule, Index int }

// Pause has a TCP listener's kernel refuse clients until Resume. Those that are
// connected go on, those that wait to be accepted are reset.
func (p *Publisher) Pause(id SocketID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.listeners[key{id.Rule, id.Index}]
	if l == nil || l.paused || l.Proto != flow.TCP {
		return
	}
	_ = p.acceptor.Remove(l.socket.FD()) // first: what does not listen is ready all the time
	l.paused = true
	if err := hush(l.socket.FD()); err != nil {
		p.cfg.Log.Warn("port goes on listening", "rule", id.Rule, "error", err)
		p.resumeLocked(l)
	}
}

// Resume ends what Pause began.
func (p *Publisher) Resume(id SocketID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.listeners[key{id.Rule, id.Index}]; l != nil {
		p.resumeLocked(l)
	}
}

// +checklocks:p.mu
func (p *Publisher) resumeLocked(l *listener) {
	if !l.paused {
		return
	}
	err := listenAgain(l.socket.FD())
	if err == nil {
		err = p.acceptor.Add(l.socket.FD(), l.id)
	}
	if err != nil {
		p.cfg.Log.Warn("port does not listen again", "rule", l.Rule, "error", err)
		return
	}
	l.paused = false
}

// shutDown tells whether a listener was shut down by somebody else.
func (p *Publisher) shutDown(l *listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !l.paused
}

// hush takes a TCP socket out of listening; it stays bound. Without
// SO_REUSEADDR nobody else can bind its port meanwhile.
func hush(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_RD))
}

// listenAgain has a socket listen that hush, or another process, took out of it.
// Connections of before may exist, hence SO_REUSEADDR.
func listenAgain(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	return nil
}

// refusedPause is how often a listener's refused clients are told of at most.
const refusedPause = 100 * time.Millisecond

// noteRefused tells that a client of a listener was refused by the guest.
func (p *Publisher) noteRefused(l Listener, err error) {
	if p.cfg.Refused == nil || l.Direction != Inbound || l.Unix || l.TargetUnix || !errors.Is(err, syscall.ECONNREFUSED) {
		return
	}
	p.mu.Lock()
	s := p.listeners[key{l.Rule, l.Index}]
	now := time.Now()
	tell := s != nil && !s.paused && now.Sub(s.refused) > refusedPause
	if tell {
		s.refused = now
	}
	p.mu.Unlock()
	if tell {
		p.cfg.Refused(SocketID{l.Rule, l.Index})
	}
}
