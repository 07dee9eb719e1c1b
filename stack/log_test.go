package stack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/log"

	"taproot/tap"
)

// TestQuiet wants gVisor to tell nobody of what a guest can send: its log goes
// to the standard error of the user's command.
func TestQuiet(t *testing.T) {
	got := make(chan received, 1)
	w := newWire(t, tap.Features{}, 1500, func(gateway, _ *Stack) {
		gateway.HandleUDP(func(d Datagram) { got <- received{from: d.Source} })
	})
	for _, to := range []string{"127.0.0.1:9", "198.51.100.1:9"} {
		if err := w.guest.SendUDP(netip.AddrPortFrom(guest4, 9), netip.MustParseAddrPort(to), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	<-got // the second: the first is a martian, and was before it
	if log.IsLogging(log.Info) {
		t.Error("gVisor's log is open for what it thinks of packets")
	}
}
