package engine

import (
	"context"
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

// solicitPause is how long the guest may take to say which hardware address it has
// before it is asked again.
const solicitPause = 100 * time.Millisecond

// probeOrphans ends connections of an engine before, until ctx ends. The guest's
// kernel takes a segment of theirs only if it comes to its hardware address, which
// we do not know yet.
func (g *gateway) probeOrphans(ctx context.Context) error {
	for {
		var list []portfwd.Connection
		select {
		case list = <-g.orphans:
		case <-ctx.Done():
			return nil
		}
		for len(list) > 0 && !g.stack.Met(list[0].Local.Addr()) {
			select {
			case <-time.After(solicitPause):
			case <-ctx.Done():
				return nil
			}
		}
		for _, c := range list {
			_ = g.stack.Probe(c.Peer, c.Local) // counted by the link
		}
	}
}
