package engine

import (
	"context"
	"net/netip"
	"os"

	"taproot/stack/nat"
	"taproot/stack/shortcut"
)

// awaitDivert does what the supervisor says until it has said whether there is a
// shortcut. Nothing moves yet.
func (g *gateway) awaitDivert(w *wire) error {
	for {
		m, files, err := w.receive()
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
		return g.addShortcut(m.Divert.On, files)
	}
}

// addShortcut makes the shortcut over listeners in the guest's namespace, which
// it takes over.
func (g *gateway) addShortcut(on bool, listeners []*os.File) (err error) {
	g.undiverted = make(chan struct{}, 1)
	g.shortcut, err = shortcut.New(shortcut.Config{
		Config: g.natConfig(), Stack: g.stack, TCP: g.tcp, Mover: g.mover,
		Listeners: listeners,
		Except:    func(a netip.AddrPort) bool { return g.isResolver(a) },
		Broken: func() {
			select {
			case g.undiverted <- struct{}{}:
			default: // it is known
			}
		},
	})
	if err != nil {
		return err
	}
	g.shortcut.SetEnabled(on)
	g.stack.HandleSYN(g.shortcut.Handle, shortcut.Points()...)
	g.stack.HandleStray(g.shortcut.HandleStray)
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
	}
}
