package engine

import (
	"cmp"
	"context"
	"slices"

	"taproot/internal/relay"
	"taproot/stack/flow"
)

// yield has the engine end as it does when its supervisor is gone, but with the
// connections of the shortcut handed over after all else has ended: nobody begins one
// any more, and no byte is on its way but in the kernel and in what goes with them.
func (g *gateway) yield(cancel context.CancelFunc) {
	g.yields.Store(true)
	g.mover.Keep()
	g.stop(cancel)
}

// hand hands the connections over that the Mover has kept. Those that are none of the
// shortcut's, and what the supervisor does not take, are reset.
func (g *gateway) hand(w *wire) {
	kept := g.mover.Kept()
	slices.SortFunc(kept, func(a, b relay.Passed) int { return cmp.Compare(idOf(&a), idOf(&b)) })
	var page handed
	var fds passed
	most := min(maxRights, max(4, g.machine.batch())) // descriptors: whoever receives them needs others too
	send := func() error {
		err := w.sendPassed(message{Handed: &page}, fds)
		fds.close()
		page.Flows, fds = nil, nil
		return err
	}
	for i := range kept {
		p := &kept[i]
		f, ok := p.Owner.(*flow.Flow)
		if !ok || f.Way() != flow.Shortcut || f.Killed() {
			p.Reset()
			continue
		}
		own := p.Descriptors()
		if len(fds)+len(own) > most || len(page.Flows) == maxHandedFlows {
			if send() != nil { // the supervisor is gone, or has had enough
				resetAll(kept[i:])
				return
			}
		}
		page.Flows = append(page.Flows, handedFlow{Info: f.Info(), Held: p.Held, Finished: p.Finished})
		fds = append(fds, own...)
	}
	page.Last = g.flows.Last()
	_ = send() // the supervisor may be gone
}

// idOf returns the id of a connection's flow, 0 if it has none.
func idOf(p *relay.Passed) uint64 {
	if f, ok := p.Owner.(*flow.Flow); ok {
		return f.ID
	}
	return 0
}

func resetAll(list []relay.Passed) {
	for i := range list {
		list[i].Reset()
	}
}
