package portfwd

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack/flow"
)

const (
	// dialTimeout is how long a guest may be silent. The client's patience is
	// longer (Linux: 130 s), but it believes to be connected already.
	dialTimeout = 20 * time.Second

	// dialTries is how many source ports are tried when they are taken.
	dialTries = 16
)

// serveStack connects a client to the guest through the stack, and leaves both
// to the Mover.
func (p *Publisher) serveStack(f *os.File, source, target netip.AddrPort, entry *flow.Flow) {
	guest, source, err := p.dial(source, target)
	if err != nil {
		p.refuse(f, source, target, err)
	} else if err = p.joinStack(guest, f, source, target, entry); err != nil {
		p.fail(source, target, err)
	}
	if err != nil {
		entry.Close()
		p.free()
	}
}

// joinStack has the Mover serve the guest's end and a client, and the flow end
// with them. Where it fails, both are reset, and the flow is the caller's.
func (p *Publisher) joinStack(guest Conn, client *os.File, source, target netip.AddrPort, entry *flow.Flow) error {
	stream(client)
	fd, err := socket.Dup(client)
	if err != nil {
		relay.Reset(client)
		guest.Abort()
		return err
	}
	client.Close()
	p.Stats.Connected.Add(1)
	return p.cfg.Mover.JoinStream(guest, fd, relay.Counters{Outbound: &entry.ToInitiator, Inbound: &entry.ToTarget, Owner: entry}, p.ending(source, target, entry))
}

// ending returns what the Mover calls at the end of a connection.
func (p *Publisher) ending(source, target netip.AddrPort, entry *flow.Flow) func(inOrder bool) {
	return func(inOrder bool) {
		p.logEnd(inOrder, source, target, entry)
		entry.Close()
		p.free()
	}
}

// dial connects to the guest, from another port if the source's is taken. It
// returns the source that it took.
func (p *Publisher) dial(source, target netip.AddrPort) (Conn, netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	for i := 1; ; i++ {
		guest, err := p.cfg.Dial(ctx, source, target)
		if !errors.Is(err, syscall.EADDRINUSE) || i == dialTries {
			return guest, source, err
		}
		source = anotherPort(source)
	}
}

// serveLocal connects a client to loopback of the other side, and leaves both
// to the Mover.
func (p *Publisher) serveLocal(l Listener, f *os.File, client netip.AddrPort, entry *flow.Flow) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	target, to, err := p.dialLocal(ctx, l, client, unix.SOCK_STREAM)
	if err != nil {
		p.refuse(f, client, to, err)
	} else if err = p.join(f, target, client, to, entry); err != nil {
		p.fail(client, to, err)
	}
	if err != nil {
		entry.Close()
		p.free()
	}
}

// join has the Mover serve two sockets, and the flow end with them. Where it
// fails, both are reset, and the flow is the caller's.
func (p *Publisher) join(client, target *os.File, from, to netip.AddrPort, entry *flow.Flow) error {
	stream(client)
	stream(target)
	a, b, err := detach(client, target)
	if err != nil {
		relay.Reset(client)
		relay.Reset(target)
		return err
	}
	client.Close()
	target.Close()
	p.Stats.Connected.Add(1)
	return p.cfg.Mover.Join(a, b, relay.Counters{Outbound: &entry.ToTarget, Inbound: &entry.ToInitiator, Owner: entry}, p.ending(from, to, entry))
}

// detach returns descriptors of two sockets that the runtime's poller does not
// know.
func detach(f, g *os.File) (a, b int, err error) {
	if a, err = socket.Dup(f); err != nil {
		return -1, -1, err
	}
	if b, err = socket.Dup(g); err != nil {
		unix.Close(a)
		return -1, -1, err
	}
	return a, b, nil
}

// dialLocal connects a socket of the other side to its loopback: to the one of
// the client's family, or the other one if nobody listens there. It returns
// where it tried last.
func (p *Publisher) dialLocal(ctx context.Context, l Listener, client netip.AddrPort, typ int) (f *os.File, to netip.AddrPort, err error) {
	for _, address := range l.loopbacks(client.Addr()) {
		to = netip.AddrPortFrom(address, l.TargetPort)
		if f, err = p.dialLoopback(ctx, l, to, typ); err == nil {
			return f, to, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EAFNOSUPPORT) {
			break
		}
	}
	return nil, to, err
}

// loopbacks returns the loopback addresses that a listener may lead to, at
// least one.
func (l Listener) loopbacks(client netip.Addr) []netip.Addr {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	switch {
	case l.Target.IsValid():
		return []netip.Addr{l.Target}
	case client.Is4():
		return []netip.Addr{v4, v6}
	}
	return []netip.Addr{v6, v4}
}

// dialLoopback opens a socket of the right side and connects it.
func (p *Publisher) dialLoopback(ctx context.Context, l Listener, to netip.AddrPort, typ int) (*os.File, error) {
	var f *os.File
	var err error
	if l.Direction == Outbound {
		f, err = socket.Open(socket.Family(to.Addr()), typ, nil)
	} else {
		f, err = p.cfg.GuestSocket(ctx, socket.Family(to.Addr()), typ)
	}
	if err != nil {
		return nil, err
	}
	if err := socket.Connect(ctx, f, to); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// refuse resets a client whose target was not reached.
func (p *Publisher) refuse(f *os.File, source, target netip.AddrPort, err error) {
	p.fail(source, target, err) // first: who sees the reset may look at the count
	relay.Reset(f)
}

// fail counts and logs why there is no connection.
func (p *Publisher) fail(source, target netip.AddrPort, err error) {
	p.countFailure(err)
	p.cfg.Log.Debug("no connection", "proto", "tcp", "initiator", source, "target", target, "error", err)
}

// countFailure counts why a target was not reached.
func (p *Publisher) countFailure(err error) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		p.Stats.Refused.Add(1)
	case isExhausted(err):
		p.Stats.Exhausted.Add(1)
	default:
		p.Stats.Unreachable.Add(1)
	}
}

func (p *Publisher) logEnd(inOrder bool, source, target netip.AddrPort, entry *flow.Flow) {
	p.cfg.Log.Debug("flow ended", "proto", "tcp", "initiator", source, "target", target,
		"in_order", inOrder, "to_target", entry.ToTarget.Load(), "to_initiator", entry.ToInitiator.Load())
}

// stream sets a socket up for the relay.
func stream(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { socket.Stream(int(fd)) })
	}
}
