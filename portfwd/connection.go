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
func (p *Publisher) serveStack(a *arrival) {
	guest, err := p.dial(a)
	if errors.Is(err, syscall.ECONNREFUSED) && p.turn(a) {
		guest, err = p.dial(a)
	}
	if err == nil {
		p.doubt(a)
		err = p.joinStack(guest, a)
	}
	p.served(a, err)
}

// served resets a client that is not connected, and counts and logs why.
func (p *Publisher) served(a *arrival, err error) {
	if err == nil {
		return
	}
	// First: who sees the reset may look at the count.
	p.countFailure(err)
	p.noteRefused(a.Listener, err)
	p.cfg.Log.Debug("no connection", "proto", "tcp", "initiator", a.source, "target", a.target, "error", err)
	a.reset()
	a.entry.Close()
	p.free()
}

// turn has an arrival lead to the guest's address of the other family, if the
// rule allows that, with the gateway as source: its program may listen on one
// family only. It returns false if there is no other one.
func (p *Publisher) turn(a *arrival) bool {
	source, target, ok := p.otherFamily(a.Listener, a.client, a.target.Addr())
	if !ok {
		return false
	}
	return p.reopen(a, source, target)
}

// reopen gives an arrival other ends, and a flow that has them: its key is where
// others look for it. Where the table is full, it changes nothing and returns false.
func (p *Publisher) reopen(a *arrival, source, target netip.AddrPort) bool {
	entry, err := p.open(a.Listener, source, target, a.entry.Way())
	if err != nil {
		return false
	}
	a.entry.Close()
	if a.entry.Killed() {
		entry.Kill()
	}
	a.entry, a.source, a.target = entry, source, target
	return true
}

// joinStack has the Mover serve the guest's end and a client, and the flow end
// with them. Where it fails, the guest's end is reset; the rest is the caller's.
func (p *Publisher) joinStack(guest Conn, a *arrival) error {
	header, err := a.proxyHeader(a.file, a.client, a.source, a.target)
	if err == nil {
		err = greetStream(guest, header)
	}
	fd := -1
	if err == nil {
		stream(a.file)
		fd, err = socket.Dup(a.file)
	}
	if err != nil {
		guest.Abort()
		return err
	}
	a.file.Close()
	p.Stats.Connected.Add(1)
	return p.cfg.Mover.JoinStream(guest, fd, relay.Counters{Outbound: &a.entry.ToInitiator, Inbound: &a.entry.ToTarget, Owner: a.entry}, p.ending(a))
}

// ending returns what the Mover calls at the end of a connection.
func (p *Publisher) ending(a *arrival) func(inOrder bool) {
	source, target, entry := a.source, a.target, a.entry // no more of it is needed
	return func(inOrder bool) {
		p.logEnd(inOrder, source, target, entry)
		if entry.Way() == flow.Shortcut {
			p.direct.Ended(entry)
		}
		entry.Close()
		p.free()
	}
}

// dial connects to the guest, from another port if the source's is taken, which
// the arrival learns.
func (p *Publisher) dial(a *arrival) (Conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	for i := 1; ; i++ {
		guest, err := p.cfg.Dial(ctx, a.source, a.target)
		if !errors.Is(err, syscall.EADDRINUSE) || i == dialTries || !p.reopen(a, anotherPort(a.source), a.target) {
			return guest, err
		}
	}
}

// serveLocal connects a client to loopback of the other side, and leaves both
// to the Mover.
func (p *Publisher) serveLocal(a *arrival) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	target, to, err := p.dialLocal(ctx, a.Listener, a.client, unix.SOCK_STREAM)
	a.target = to
	if err == nil {
		err = p.join(target, a)
	}
	p.served(a, err)
}

// serveUnix is serveLocal for a target that is a Unix socket.
func (p *Publisher) serveUnix(a *arrival) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	target, err := p.dialUnix(ctx, a.Rule)
	if err == nil {
		err = p.join(target, a)
	}
	p.served(a, err)
}

const (
	// fullPause and fullLongest are the first and the longest pause before a
	// Unix socket with a full backlog is tried again. There is nothing that
	// could be waited for.
	fullPause   = 2 * time.Millisecond
	fullLongest = 100 * time.Millisecond
)

// dialUnix connects to the Unix socket that a rule leads to. Where its program is
// slow to accept, that takes as long as ctx allows: connect(2) of TCP waits too.
func (p *Publisher) dialUnix(ctx context.Context, rule int) (*os.File, error) {
	for pause := fullPause; ; pause = min(2*pause, fullLongest) {
		target, err := p.cfg.UnixSocket(ctx, rule)
		if !errors.Is(err, syscall.EAGAIN) {
			return target, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// join has the Mover serve two sockets, and the flow end with them. Where it
// fails, the target is reset; the rest is the caller's.
func (p *Publisher) join(target *os.File, a *arrival) error {
	header, err := a.proxyHeader(a.file, a.client, a.source, a.target)
	if err == nil {
		err = greet(target, header)
	}
	from, to := -1, -1
	if err == nil {
		stream(a.file)
		stream(target)
		from, to, err = detach(a.file, target)
	}
	if err != nil {
		relay.Reset(target)
		return err
	}
	a.file.Close()
	target.Close()
	p.Stats.Connected.Add(1)
	return p.cfg.Mover.Join(from, to, relay.Counters{Outbound: &a.entry.ToTarget, Inbound: &a.entry.ToInitiator, Owner: a.entry}, p.ending(a))
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
	p.cfg.Log.Debug("flow ended", "proto", "tcp", "way", entry.Way(), "initiator", source, "target", target,
		"in_order", inOrder, "to_target", entry.ToTarget.Load(), "to_initiator", entry.ToInitiator.Load())
}

// stream sets a socket up for the relay.
func stream(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { socket.Stream(int(fd)) })
	}
}
