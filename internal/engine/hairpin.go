package engine

import (
	"net/netip"

	"taproot/stack/flow"
	"taproot/stack/policy"
)

// leadsBack is policy.Config.Published: whether a port of the host's leads back
// to the guest.
func (g *gateway) leadsBack(p policy.Proto, at netip.AddrPort) bool {
	proto := flow.TCP
	if p == policy.UDP {
		proto = flow.UDP
	}
	return g.ports.Listens(proto, at)
}

// endLeadingBack ends the guest's UDP flows to ports of the host that lead back no
// more: the next one who has such a port is somebody else. Connections of TCP
// are another matter, as they are with who they were made with.
func (g *gateway) endLeadingBack() {
	if g.rules == nil {
		return
	}
	addresses := make(map[netip.Addr]struct{})
	for _, a := range g.host.Load().Addresses {
		addresses[a.Unmap().WithZone("")] = struct{}{}
	}
	for f := range g.flows.All() {
		if _, host := addresses[f.Target.Addr()]; !host || f.Proto != flow.UDP || f.Rule() != 0 {
			continue
		}
		if _, err := g.rules.Check(policy.UDP, f.Target); err != nil {
			f.Kill()
		}
	}
}
