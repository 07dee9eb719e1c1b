package stack

import (
	"context"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// A guest may use a port again in the same instant in which it resets the
// connection that had it: the SYN is right behind the RST.
func TestPortIsUsedAgainAfterReset(t *testing.T) {
	w := newWire(t, offloads["offloads"], 1500, func(gateway, _ *Stack) {
		gateway.HandleTCP(func(r *Request) {
			if c, err := r.Accept(); err == nil {
				defer c.Abort()
				news := make(chan struct{}, 1)
				c.Notify(func() {
					select {
					case news <- struct{}{}:
					default:
					}
				})
				for c.Err() == nil {
					<-news
				}
			}
		})
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	from := tcpip.FullAddress{NIC: nic, Addr: toAddress(guest4), Port: 4000}
	to := tcpip.FullAddress{NIC: nic, Addr: toAddress(server4), Port: 80}
	for i := range 50 {
		if _, err := gonet.DialTCPWithBind(ctx, w.guest.stack, from, to, ipv4.ProtocolNumber); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		for _, ep := range w.guest.stack.RegisteredEndpoints() {
			ep.(tcpip.Endpoint).Abort()
		}
	}
	if n := w.guest.stack.Stats().TCP.Retransmits.Value(); n != 0 {
		t.Errorf("SYNs sent again: got %d, want 0", n)
	}
}
