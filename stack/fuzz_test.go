package stack

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// FuzzFrame gives the gateway any bytes as a frame, with any virtio-net
// header, and sees that it answers the next proper one.
func FuzzFrame(f *testing.F) {
	syn := []byte{
		0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee, 2, 0, 0, 0, 0, 1, 8, 0,
		0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 2, 100, 198, 51, 100, 1,
		0x10, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
	}
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, syn)
	f.Add([]byte{1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0}, append(syn, make([]byte, 5000)...))
	f.Add([]byte{1, 5, 42, 0, 0, 1, 34, 0, 6, 0}, append(syn[:23], 17, 0, 0))
	f.Add([]byte{}, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, append([]byte{0x33, 0x33, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255}, make([]byte, 64)...))
	f.Add(make([]byte, tap.HeaderLen), solicitation("fd00::64", "fd00::50"))
	f.Add(make([]byte, tap.HeaderLen), arpRequest("10.0.2.100", "10.0.2.50"))
	f.Add(make([]byte, tap.HeaderLen), refusal4())
	f.Add(make([]byte, tap.HeaderLen), refusal6())
	f.Fuzz(func(t *testing.T, virtio, frame []byte) {
		a, b, err := taptest.Pair(tap.Features{Header: true, Checksum: true, TSO: true, USO: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}, Neighbours: func(netip.Addr) bool { return true }})
		marked := make(chan struct{})
		var once sync.Once
		s.HandleTCP(func(r *Request) { r.Refuse() })
		s.HandleStray(func(stray *Stray) bool { return s.PutBackStray(stray, ours) == nil })
		s.HandleEcho(func(Echo) {})
		s.HandleSolicitation(func() {})
		s.HandleRefusal(func(Refusal) {})
		s.HandleUDP(func(d Datagram) {
			if d.Destination.Port() == 9 && string(d.Payload) == "marker" {
				once.Do(func() { close(marked) })
			}
		})
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			if err := s.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		}()

		w := b.NewWriter()
		w.Add(virtio)
		w.Add(frame)
		if len(virtio)+len(frame) > 0 {
			_ = w.Flush() // longer than the wire takes: not written
		}
		marker := s.completeDatagram(netip.MustParseAddrPort("10.0.2.100:9"), netip.MustParseAddrPort("198.51.100.1:9"), []byte("marker"))
		w.Add(make([]byte, tap.HeaderLen))
		w.Add([]byte{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee, 2, 0, 0, 0, 0, 1, 8, 0})
		w.Add(marker)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		await(t, "the frame after", marked)
		cancel()
		await(t, "the end", stopped)
	})
}

// await waits for ch, and shows what all goroutines do if it takes too long.
func await(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(settle.Patience):
		b := make([]byte, 1<<20)
		t.Fatalf("%s did not come; goroutines:\n%s", what, b[:runtime.Stack(b, true)])
	}
}
