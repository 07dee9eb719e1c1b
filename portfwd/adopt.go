package portfwd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

// ErrSocket says that a socket that somebody else opened cannot be published;
// the error that wraps it says why.
var ErrSocket = errors.New("not a socket to publish")

// A given is a socket of the host that somebody else opened for us.
type given struct {
	file   *os.File
	proto  flow.Proto
	at     netip.AddrPort
	v6only bool
}

// Adopt is Add for a rule whose one port is open already: f is bound, and
// listens for TCP. It stays the caller's. A rule without an address and a port
// gets the socket's; one with others is an error, which wraps ErrSocket, as are
// sockets of another kind and of another network namespace.
//
// The socket is shared with whoever else has it: who accepts there takes
// connections away, and the port is free only when all have closed it.
func (t *Table) Adopt(ctx context.Context, r Rule, f *os.File) (id int, err error) {
	g, err := inspect(f)
	if err == nil {
		r, err = g.fit(r)
	}
	if err != nil {
		return 0, fmt.Errorf("publish %v: %w", r, err)
	}
	if err := r.check(); err != nil {
		return 0, err
	}
	if holder := t.ruleAt(r, r.Listen); holder != "" {
		return 0, &BindError{Proto: r.Proto, Port: r.Listen.Port(), Addr: r.Listen.Addr(), Err: syscall.EADDRINUSE, Holder: holder}
	}
	if _, err := t.reserve(r); err != nil {
		return 0, err
	}
	s, err := g.open()
	if err != nil {
		t.release(1)
		return 0, fmt.Errorf("publish %v: %w", r, err)
	}
	return t.insert(Entry{Rule: r, Bound: 1}, []bound{s})
}

// fit returns the rule with the socket's address, or why they do not go
// together.
func (g given) fit(r Rule) (Rule, error) {
	at := g.at
	if at.Addr() == netip.IPv6Unspecified() && !g.v6only {
		at = netip.AddrPortFrom(netip.Addr{}, at.Port())
	}
	if r.Listen == (netip.AddrPort{}) {
		r.Listen = at
	}
	switch {
	case r.Direction == Outbound || r.ListenUnix != "" || r.Local || r.Device != "" || r.Count() > 1:
		return r, fmt.Errorf("%w: want a rule with one port of the host", ErrSocket)
	case g.proto != r.Proto:
		return r, fmt.Errorf("%w: it is one of %v", ErrSocket, g.proto)
	case netip.AddrPortFrom(r.Listen.Addr().Unmap(), r.Listen.Port()) != at:
		return r, fmt.Errorf("%w: it is bound to %v", ErrSocket, g.at)
	}
	return r, nil
}

// open returns the socket as one of a rule, see binding.
func (g given) open() (bound, error) {
	fd, err := socket.Dup(g.file)
	if err != nil {
		return bound{}, err
	}
	s, err := keep(fd, g.file.Name())
	s.given = true
	return s, err
}

// inspect looks whether a socket can be published.
func inspect(f *os.File) (g given, err error) {
	err = control(f, func(fd int) (err error) {
		g, err = examine(fd)
		return err
	})
	g.file = f
	return g, err
}

// protoMPTCP is IPPROTO_MPTCP: what Go's listeners are unless told otherwise.
const protoMPTCP = 262

func examine(fd int) (g given, err error) {
	options := make(map[int]int)
	for _, o := range [...]int{unix.SO_DOMAIN, unix.SO_PROTOCOL, unix.SO_ACCEPTCONN} {
		if options[o], err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, o); err != nil {
			return g, fmt.Errorf("%w: %w", ErrSocket, err)
		}
	}
	switch options[unix.SO_PROTOCOL] {
	case unix.IPPROTO_TCP, protoMPTCP:
		g.proto = flow.TCP
		if options[unix.SO_ACCEPTCONN] == 0 {
			return g, fmt.Errorf("%w: it does not listen", ErrSocket)
		}
	case unix.IPPROTO_UDP:
		g.proto = flow.UDP
		if _, err := unix.Getpeername(fd); err == nil {
			return g, fmt.Errorf("%w: it is connected", ErrSocket)
		}
	default:
		return g, fmt.Errorf("%w: want TCP or UDP", ErrSocket)
	}
	if options[unix.SO_DOMAIN] == unix.AF_INET6 {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return g, os.NewSyscallError("getsockopt", err)
		}
		g.v6only = only != 0
	}
	if err := sameNetwork(fd); err != nil {
		return g, err
	}
	g.at, err = addressOf(fd)
	if err == nil && g.at.Port() == 0 {
		err = fmt.Errorf("%w: it is not bound to a port", ErrSocket)
	}
	return g, err
}

// sameNetwork wants a socket of our own network namespace: clients of another one
// are not who they seem to be. Kernels before 5.14 cannot tell
// (SO_NETNS_COOKIE).
func sameNetwork(fd int) error {
	theirs, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, syscall.ENOPROTOOPT) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	s, err := socket.New(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		s, err = socket.New(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	}
	if err != nil {
		return err
	}
	defer s.Release()
	ours, err := unix.GetsockoptUint64(s.FD(), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == nil && ours != theirs {
		return fmt.Errorf("%w: it is of another network namespace", ErrSocket)
	}
	return os.NewSyscallError("getsockopt", err)
}

// passedAt returns a socket that was passed to us, is bound to an address and
// not in use.
func (t *Table) passedAt(r Rule, at netip.AddrPort, v6only bool) (bound, bool) {
	for _, g := range t.passed {
		if g.proto != r.Proto || g.at != at || at.Addr() == netip.IPv6Unspecified() && g.v6only != v6only {
			continue
		}
		if t.ruleAt(r, at) != "" {
			break
		}
		s, err := g.open()
		return s, err == nil
	}
	return bound{}, false
}

// examinePassed looks at the sockets that were passed to us. The others are left
// alone.
func (t *Table) examinePassed() {
	for _, f := range t.cfg.Passed {
		g, err := inspect(f)
		if err != nil {
			t.cfg.Log.Warn("passed descriptor not used", "name", f.Name(), "error", err)
			continue
		}
		t.cfg.Log.Debug("socket passed", "name", f.Name(), "proto", g.proto.String(), "address", g.at)
		t.passed = append(t.passed, g)
	}
}
