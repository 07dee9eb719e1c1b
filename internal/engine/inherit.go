package engine

import (
	"errors"
	"slices"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// inherit goes on with connections that an engine before had, while this one waits for
// its turn. What is not right or not allowed is reset. It owns fds.
func (g *gateway) inherit(h *handed, fds passed) {
	if h.lost {
		g.log.Warn("connections not taken over: too many open files", "flows", len(h.Flows))
		fds.close()
		h, fds = &handed{Last: h.Last}, nil
	}
	if err := h.check(fds, g.flows.Last()); err != nil || !g.inherits {
		g.log.Warn("connections not taken over", "error", err)
		fds.close()
		return
	}
	for i := range h.Flows {
		var p relay.Passed
		p, fds = h.Flows[i].passed(fds)
		if err := g.inheritOne(&h.Flows[i].Info, &p); err != nil {
			g.log.Debug("connection not taken over", "flow", h.Flows[i].ID, "error", err)
			p.Reset()
		}
	}
	if h.Last == 0 {
		return // others follow
	}
	if err := g.flows.SkipTo(h.Last); err != nil {
		g.log.Debug("flow ids", "error", err) // some may be used again
	}
}

// errNoShortcut says that connections cannot go past the stack here.
var errNoShortcut = errors.New("there is no shortcut")

// inheritOne enters a flow, and has its connection go on. An error leaves that to the
// caller.
func (g *gateway) inheritOne(i *flow.Info, p *relay.Passed) error {
	if err := socket.OtherNamespace(p.Ends[0], p.Ends[1]); err != nil {
		return err // it would lead from the guest to the guest
	}
	f, err := g.flows.Restore(*i)
	if err != nil {
		return err
	}
	switch {
	case i.Rule != 0:
		err = g.ports.Inherit(f, p)
	case g.shortcut != nil:
		err = g.shortcut.Inherit(f, p)
	default:
		err = errNoShortcut
	}
	if err != nil {
		f.Close()
	}
	return err
}

// orphansOf returns those of the guest's connections that no flow of ours goes on with.
func (g *gateway) orphansOf(list []portfwd.Connection) []portfwd.Connection {
	live := make(map[flow.Key]bool)
	for f := range g.flows.All() {
		live[f.Key] = true
	}
	return slices.DeleteFunc(list, func(c portfwd.Connection) bool {
		return live[flow.Key{Proto: flow.TCP, Initiator: c.Local, Target: c.Peer}] ||
			live[flow.Key{Proto: flow.TCP, Initiator: c.Peer, Target: c.Local}]
	})
}
