package nat

import (
	"net/netip"
	"testing"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// TestUDPKill ends a flow that somebody has killed, and begins another one with
// the guest's next datagram.
func TestUDPKill(t *testing.T) {
	u, _ := startUDP(t)
	server := listen(t, "127.0.0.1:0")
	initiator, target := netip.AddrPortFrom(guest4, freePort(t)), netip.AddrPortFrom(gateway4, portOf(server))
	for range 2 {
		u.Handle(datagram(initiator, target, "hello"))
		read(t, server)
		for f := range u.cfg.Flows.All() {
			f.Kill()
		}
		settle.Until(t, "the flow is gone", func() bool { return u.cfg.Flows.Len(flow.UDP) == 0 })
	}
}
