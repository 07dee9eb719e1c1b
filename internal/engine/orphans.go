package engine

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"taproot/portfwd"
)

const (
	// maxOrphans is how many connections are looked after: as many as there may be
	// flows, see package flow.
	maxOrphans = 65536

	// pageOrphans is how many go into a message: with their longest addresses they
	// fit into maxMessage.
	pageOrphans = 512
)

// orphans returns the guest's connections that an engine which is gone may have had,
// and which by frames do not end by themselves: the guest may wait for a word of the
// other end, and so for ever. On the shortcut the guest's other end has gone
// with the engine.
func (s *supervisor) orphans(ctx context.Context) []portfwd.Connection {
	if s.spec.NoDevice {
		return nil
	}
	diag, err := s.diagInGuest(ctx)
	if err != nil {
		s.log.Debug("old connections not looked for", "error", err)
		return nil
	}
	scanner := portfwd.NewScanner(diag)
	defer scanner.Close()
	list, err := scanner.Connections(maxOrphans)
	if err != nil {
		s.log.Debug("old connections not looked for", "error", err)
		return nil
	}
	return slices.DeleteFunc(list, func(c portfwd.Connection) bool {
		return c.Peer.Addr().IsLoopback() || c.Peer.Addr() == c.Local.Addr() // it stays inside
	})
}

// endOrphans has a new engine end them.
func (s *supervisor) endOrphans(list []portfwd.Connection) {
	for page := range slices.Chunk(list, pageOrphans) {
		if err := s.current().wire.send(message{Orphans: page}); err != nil {
			s.log.Debug("old connections not ended", "error", err) // it is dead, and the next one ends them
			return
		}
	}
}

const (
	// solicitPause is how long the guest may take to say which hardware address it
	// has before it is asked again.
	solicitPause = 100 * time.Millisecond

	// solicitTries is how often it is asked: for five seconds. Whoever has said
	// nothing then has no device that is up, or none of these addresses, and will
	// learn that the connections are gone when it sends.
	solicitTries = 50
)

// probeOrphans ends connections of an engine before, until ctx ends. The guest's
// kernel takes a segment of theirs only if it comes to its hardware address, which
// we do not know yet.
func (g *gateway) probeOrphans(ctx context.Context) error {
	for {
		var list []portfwd.Connection
		select {
		case list = <-g.orphans:
			list = g.orphansOf(list)
		case <-ctx.Done():
			return nil
		}
		if !g.meet(ctx, localsOf(list)) {
			g.log.Debug("old connections not ended: the guest's hardware address is not known", "connections", len(list))
			continue
		}
		for _, c := range list {
			_ = g.stack.Probe(c.Peer, c.Local) // counted by the link
		}
	}
}

// meet waits until the guest's hardware address is known. It asks for it by each of
// the guest's addresses in turn, for it may not have some of them any more, and
// returns false if there is no answer or ctx ends.
func (g *gateway) meet(ctx context.Context, addresses []netip.Addr) bool {
	for try := range solicitTries {
		if len(addresses) == 0 || g.stack.Met(addresses[try%len(addresses)]) {
			return true
		}
		select {
		case <-time.After(solicitPause):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// localsOf returns the guest's addresses that connections have, each once, in the
// order of their first connections.
func localsOf(list []portfwd.Connection) []netip.Addr {
	var addresses []netip.Addr
	for _, c := range list {
		if a := c.Local.Addr(); !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	return addresses
}
