package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/portfwd"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/shortcut"
)

// awaitDivert does what the supervisor says until it has said whether there is a
// shortcut. Nothing moves yet.
func (g *gateway) awaitDivert(w *wire) error {
	for {
		m, files, err := g.next(w)
		if err != nil {
			return err
		}
		if m.Divert == nil || !m.Divert.First {
			g.do(w, m, files)
			continue
		}
		if len(files) == 0 {
			return nil
		}
		n := len(files) - min(max(m.Divert.Clients, 0), len(files))
		return errors.Join(g.addShortcut(m.Divert.On, files[:n]), g.addDialer(m.Divert.On, files[n:]))
	}
}

// addDialer makes what connects published ports kernel to kernel, over packet sockets
// in the guest's namespace, which it takes over. None is no error.
func (g *gateway) addDialer(on bool, clients []*os.File) (err error) {
	if len(clients) == 0 {
		return nil
	}
	g.dialer, err = shortcut.NewDialer(shortcut.DialerConfig{
		Stack: g.stack, Clients: clients, Need: g.needClients, Broken: g.undivert,
	})
	if err != nil {
		return err
	}
	g.dialer.SetEnabled(on)
	g.ports.SetDirect(g.dialer)
	return nil
}

// expectClients makes ready for connections to what is published.
func (g *gateway) expectClients(listeners []portfwd.Listener) {
	tcp := func(l portfwd.Listener) bool { return l.Proto == flow.TCP && l.Direction == portfwd.Inbound }
	if g.dialer != nil && slices.ContainsFunc(listeners, tcp) {
		g.dialer.Prepare()
		p := g.plan.Load()
		for _, guest := range valid(p.V4.First().Addr(), p.V6.First().Addr()) {
			g.stack.Met(guest) // or it is asked now
		}
	}
}

// needClients asks for n sockets that stand for clients, or fewer.
func (g *gateway) needClients(family, n int) {
	r := socketRequest{Family: family, Type: unix.SOCK_STREAM, Clients: min(n, g.machine.batch())}
	if err := g.wire.send(message{Need: &r}); err != nil {
		g.dialer.Supply(family, nil, fmt.Errorf("ask for sockets inside the guest: %w", err))
	}
}

// next returns what the supervisor says next. The sockets of clients, of which there
// are many, go to who asked for them before, and those of connections are taken over. Of
// sockets for new flows, those are closed that are too many.
func (g *gateway) next(w *wire) (message, []*os.File, error) {
	for {
		m, fds, err := w.receiveRaw()
		if err != nil {
			fds.close()
			return message{}, nil, err
		}
		if m.Sockets != nil {
			fds = fds.admitted(socket.Ceiling(g.limits.descriptors))
		}
		if m.Sockets != nil && m.Sockets.Request.Clients > 0 {
			g.supply(m.Sockets, fds)
			continue
		}
		if m.Handed != nil {
			g.inherit(m.Handed, fds)
			continue
		}
		files, err := fds.files()
		return m, files, err
	}
}

// supply gives sockets of clients to the Dialer.
func (g *gateway) supply(r *socketReply, fds passed) {
	switch {
	case g.dialer == nil: // not asked for
		fds.close()
	case r.Error != "":
		g.dialer.Supply(r.Request.Family, fds, errors.New(r.Error))
	default:
		g.dialer.Supply(r.Request.Family, fds, nil)
	}
}

// divert takes over whether the rules stand.
func (g *gateway) divert(state *divertState) {
	switch {
	case g.shortcut == nil:
	case state.Suspended:
		g.shortcut.Suspend()
	default:
		g.shortcut.SetEnabled(state.On)
	}
	switch {
	case g.dialer == nil:
	case state.Suspended:
		g.dialer.Suspend()
	default:
		g.dialer.SetEnabled(state.On)
	}
}

// handleStray shows a segment that the stack knows nothing of to both directions.
func (g *gateway) handleStray(seg *stack.Stray) bool {
	return g.dialer != nil && g.dialer.HandleStray(seg) || g.shortcut.HandleStray(seg)
}

// undivert notes that the rules do nothing.
func (g *gateway) undivert() {
	select {
	case g.undiverted <- struct{}{}:
	default: // it is known
	}
}

// addShortcut makes the shortcut over listeners in the guest's namespace, which
// it takes over.
func (g *gateway) addShortcut(on bool, listeners []*os.File) (err error) {
	g.undiverted = make(chan struct{}, 1)
	g.shortcut, err = shortcut.New(shortcut.Config{
		Config: g.natConfig(), Stack: g.stack, TCP: g.tcp, Mover: g.mover,
		Listeners: listeners, MaxPending: int(g.limits.dialsShortcut),
		Except: func(a netip.AddrPort) bool { return g.isResolver(a) },
		Broken: g.undivert,
	})
	if err != nil {
		return err
	}
	g.shortcut.SetEnabled(on)
	g.stack.HandleSYN(g.shortcut.Handle, shortcut.Points()...)
	g.stack.HandleStray(g.handleStray)
	return nil
}

// tellUndiverted tells the supervisor of a shortcut that does not work, until
// ctx ends.
func (g *gateway) tellUndiverted(ctx context.Context) error {
	for {
		select {
		case <-g.undiverted:
			_ = g.wire.send(message{Undiverted: true}) // the supervisor may be gone
		case <-ctx.Done():
			return nil
		}
	}
}

// natConfig is what all ways out have in common.
func (g *gateway) natConfig() nat.Config {
	s := g.spec
	return nat.Config{
		Guest: g.stack, Rules: g.rules, Flows: g.flows, Log: g.log,
		Gateway4: s.Plan.V4.Gateway, Gateway6: s.Plan.V6.Gateway,
		Bind: s.Bind, Denied: s.Denied,
		Descriptors: socket.Ceiling(g.limits.descriptors), ErrorsPerSecond: int(g.limits.icmpErrors),
	}
}
