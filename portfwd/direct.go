package portfwd

import (
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

// A Direct connects to the guest without the stack: *shortcut.Dialer.
type Direct interface {
	// Dial connects from any source. done is called once, perhaps before Dial
	// returns, and does not block. Its socket is non-blocking and belongs to it. The
	// errors that say something of the guest are ECONNREFUSED, and ECONNRESET, with
	// which a socket may come that has what was sent before; EADDRINUSE means that
	// source and target are in use together, ETIMEDOUT that there was no answer, and
	// any other that the stack is to be asked.
	Dial(source, target netip.AddrPort, done func(fd int, err error))

	// Doubt says that the stack has connected where there was no answer.
	Doubt()

	// Joined says that a flow uses a socket of Dial's, with the addresses of its key,
	// and Ended that it does not any more.
	Joined(f *flow.Flow)
	Ended(f *flow.Flow)

	// Inherit is Joined for a socket that another process had, which it checks; ended
	// says that the socket may be over.
	Inherit(f *flow.Flow, fd int, ended bool) error
}

// promptness is how soon the guest answers the stack, if it would have answered
// before, too.
const promptness = time.Second

// isDirect tells whether a listener's clients may go past the stack, to where the stack
// would lead them.
func (p *Publisher) isDirect(l Listener, client netip.Addr) bool {
	return p.direct != nil && !l.TargetUnix && !l.local(client)
}

// serveDirect connects a client to the guest past the stack, and leaves both to the
// Mover.
func (p *Publisher) serveDirect(a *arrival) {
	p.connections.Add(1)
	p.direct.Dial(a.source, a.target, func(fd int, err error) {
		defer p.connections.Done()
		p.dialed(a, fd, err)
	})
}

// dialed goes on when Direct has done its part.
func (p *Publisher) dialed(a *arrival, fd int, err error) {
	switch {
	case err == nil:
		err = p.joinDirect(a, fd)
	case errors.Is(err, syscall.ECONNRESET):
		if fd >= 0 {
			socket.PassOn(fd, a.fd)
			socket.Reset(fd)
		}
	case errors.Is(err, syscall.EADDRINUSE) && a.tries < dialTries:
		if p.reopen(a, anotherPort(a.source), a.target) {
			a.tries++
			p.serveDirect(a)
			return
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		if !a.turned && p.turn(a) {
			a.turned = true
			p.serveDirect(a)
			return
		}
	case p.ctx.Err() == nil && a.entry.SetWay(flow.ByFrames) == nil:
		p.fallBack(a, err)
		return
	}
	p.served(a, err)
}

// fallBack has the stack serve a client.
func (p *Publisher) fallBack(a *arrival, why error) {
	if errors.Is(why, syscall.ETIMEDOUT) {
		a.doubted = time.Now().Add(promptness)
	}
	a.keep()
	p.connections.Go(func() { p.serveStack(a) })
}

// doubt tells Direct if the stack has reached a guest that had seemed to be silent.
func (p *Publisher) doubt(a *arrival) {
	if time.Now().Before(a.doubted) {
		p.direct.Doubt()
	}
}

// joinDirect has the Mover serve the guest's end, which is set up for it, and a client,
// and the flow end with them. Where it fails, the guest's end is reset; the rest is
// the caller's.
func (p *Publisher) joinDirect(a *arrival, guest int) error {
	p.direct.Joined(a.entry)
	err := p.joinSockets(a, guest)
	if err != nil {
		p.direct.Ended(a.entry)
	}
	return err
}

// joinSockets has the Mover serve two sockets, and the flow end with them. A
// header, where the rule wants one, is written before.
func (p *Publisher) joinSockets(a *arrival, guest int) error {
	if a.Proxy != 0 {
		a.keep()
		return p.join(os.NewFile(uintptr(guest), "guest"), a)
	}
	client := a.fd
	a.fd = -1
	p.Stats.Connected.Add(1)
	return p.cfg.Mover.Join(client, guest, relay.Counters{Outbound: &a.entry.ToTarget, Inbound: &a.entry.ToInitiator, Owner: a.entry}, p.ending(a))
}

// keep gives a client to the runtime's poller, as those want it who wait.
func (a *arrival) keep() {
	a.file = os.NewFile(uintptr(a.fd), "tcp")
	a.fd = -1
}

// reset resets a client, unless the Mover has it.
func (a *arrival) reset() {
	if a.file != nil {
		relay.Reset(a.file)
	} else if a.fd >= 0 {
		socket.Reset(a.fd)
		a.fd = -1
	}
}

// prepare sets a listener up so that what it accepts is set up for a relay.
func prepare(listener int) {
	if kind, err := unix.GetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && kind != unix.AF_UNIX {
		socket.Stream(listener)
	}
}
