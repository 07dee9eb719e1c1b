package engine

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// TestLocalsOf wants each address once.
func TestLocalsOf(t *testing.T) {
	var list []portfwd.Connection
	for _, local := range []string{"10.0.2.101:1", "10.0.2.100:1", "10.0.2.101:2", "[fd00::100]:1", "10.0.2.100:2"} {
		list = append(list, portfwd.Connection{Local: netip.MustParseAddrPort(local)})
	}
	want := []netip.Addr{netip.MustParseAddr("10.0.2.101"), netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("fd00::100")}
	if got := localsOf(list); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestProbeOrphans has a guest that has lost the address of its first connection: it is
// asked for its hardware address by that of the second, and hears of both.
func TestProbeOrphans(t *testing.T) {
	lost, kept := netip.MustParseAddr("10.0.2.101"), netip.MustParseAddr("10.0.2.100")
	g, wire := newOrphansGateway(t)
	var list []portfwd.Connection
	for _, local := range []netip.Addr{lost, kept} {
		list = append(list, portfwd.Connection{Local: netip.AddrPortFrom(local, 1000), Peer: netip.MustParseAddrPort("198.51.100.1:80")})
	}
	g.orphans <- list
	guestMAC := []byte{2, 0, 0, 0, 0, 1}
	var probed []netip.Addr
	for len(probed) < len(list) {
		frame := wire.next(t)
		switch kind := frame[12:14]; {
		case bytes.Equal(kind, []byte{8, 6}) && bytes.Equal(frame[38:42], kept.AsSlice()): // ARP, whose target this is
			wire.send(t, append(append(slices.Clone(frame[6:12]), guestMAC...), frame[12:]...))
		case bytes.Equal(kind, []byte{8, 0}) && frame[23] == 6: // TCP
			if !bytes.Equal(frame[:6], guestMAC) {
				t.Errorf("sent to %x, want %x", frame[:6], guestMAC)
			}
			to, _ := netip.AddrFromSlice(frame[30:34])
			probed = append(probed, to)
		}
	}
	if want := []netip.Addr{lost, kept}; !slices.Equal(probed, want) {
		t.Errorf("probed: got %v, want %v", probed, want)
	}
}

// A testWire is the guest's end of a device.
type testWire struct {
	device *tap.Device
	frames chan []byte
}

// newOrphansGateway returns a gateway that does nothing but to end orphans, until the
// test ends.
func newOrphansGateway(t *testing.T) (*gateway, *testWire) {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{Header: true})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{spec: testSpec(t, plan.Offsets{}, Config{}), flows: flow.New(flow.Config{}), orphans: make(chan []portfwd.Connection, 1), log: slog.New(slog.DiscardHandler)}
	if g.stack, err = stack.New(stack.Config{Device: a, MTU: 1500, MAC: g.spec.Plan.GatewayMAC}); err != nil {
		t.Fatal(err)
	}
	w := &testWire{device: b, frames: make(chan []byte, 1024)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.stack.Run(ctx) })
	wg.Go(func() { _ = g.probeOrphans(ctx) })
	wg.Go(w.read)
	t.Cleanup(func() {
		cancel()
		b.Close()
		wg.Wait()
	})
	return g, w
}

// read collects frames until the device is closed.
func (w *testWire) read() {
	b := make([]byte, tap.MaxFrame+tap.HeaderLen)
	_ = w.device.NewReader(b).Run(func(n int) { w.frames <- bytes.Clone(b[tap.HeaderLen:n]) })
}

// next returns the next frame to the guest.
func (w *testWire) next(t *testing.T) []byte {
	t.Helper()
	select {
	case frame := <-w.frames:
		return frame
	case <-time.After(settle.Patience):
		t.Fatal("no frame came to the guest")
		return nil
	}
}

// send sends a frame of the guest's.
func (w *testWire) send(t *testing.T, frame []byte) {
	t.Helper()
	out := w.device.NewWriter()
	out.Add(make([]byte, tap.HeaderLen))
	out.Add(frame)
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}
