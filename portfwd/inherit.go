package portfwd

import (
	"errors"
	"net/netip"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack/flow"
)

// Inherit goes on with a connection of a published port that another process had, past
// the stack: ends are the client's socket and the guest's. It may be called before Run,
// and before its rule's sockets are there. The sockets are checked, and whether the
// flow may use the guest's. An error leaves both to the caller, who resets the
// connection.
func (p *Publisher) Inherit(f *flow.Flow, c *relay.Passed) error {
	if p.direct == nil || !f.Inbound() {
		return errors.New("nothing leads to the guest past the stack")
	}
	if err := socket.CheckInherited(c.Ends[0], netip.AddrPort{}, netip.AddrPort{}, c.Finished[1]); err != nil {
		return err
	}
	if err := p.direct.Inherit(f, c.Ends[1], c.Finished[0]); err != nil {
		return err
	}
	a := &arrival{source: f.Initiator, target: f.Target, entry: f}
	err := p.cfg.Mover.JoinPassed(c, relay.Counters{Outbound: &f.ToTarget, Inbound: &f.ToInitiator, Owner: f}, p.ending(a))
	if err != nil {
		p.direct.Ended(f)
	}
	return err
}
