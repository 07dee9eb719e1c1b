package link

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// gatewayMAC and guestMAC are the two ends of the link.
var (
	gatewayMAC = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}
	guestMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	otherMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// The EtherTypes of frames here.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherTest = 0x88b5 // for local experiments
)

// TestMain checks that no test leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) { os.Exit(settle.Main(m)) }

// features are the two ways that a device is opened.
var features = map[string]tap.Features{
	"plain":    {},
	"offloads": {Header: true, Checksum: true, TSO: true, USO: true},
}

func eachWay(t *testing.T, f func(t *testing.T, features tap.Features)) {
	for name, features := range features {
		t.Run(name, func(t *testing.T) { f(t, features) })
	}
}

// A delivered is a packet that the stack was given.
type delivered struct {
	protocol tcpip.NetworkProtocolNumber
	pkt      *stack.PacketBuffer
}

// A fakeStack keeps the packets that it is given.
type fakeStack chan delivered

func (f fakeStack) DeliverNetworkPacket(p tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	f <- delivered{p, pkt.IncRef()}
}

func (f fakeStack) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// bytes returns a delivered packet from its Ethernet header on, and lets go
// of it.
func (d delivered) bytes() []byte {
	b := d.pkt.ToBuffer()
	defer b.Release()
	defer d.pkt.DecRef()
	return append([]byte(nil), b.Flatten()...)
}

// A bench is an endpoint that runs, between a fake stack and the guest's end
// of the wire.
type bench struct {
	*Endpoint
	guest *tap.Device
	stack fakeStack
	ended chan error // what Run returned
	stop  context.CancelFunc
}

// newBench starts an endpoint, which ends with the test. change may be nil.
func newBench(t testing.TB, f tap.Features, change func(*Config)) *bench {
	t.Helper()
	a, guest, err := taptest.Pair(f)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Device: a, MTU: 1500, MAC: gatewayMAC}
	if change != nil {
		change(&cfg)
	}
	b := &bench{Endpoint: New(cfg), guest: guest, stack: make(fakeStack, 1024), ended: make(chan error, 1)}
	b.Attach(b.stack)
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.ended <- b.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		guest.Close()
	})
	return b
}

// next returns the next element of c.
func next[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(settle.Patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// send writes a frame from the guest, behind a virtio-net header if the device
// has one.
func (b *bench) send(t testing.TB, h tap.Header, frame []byte) {
	t.Helper()
	w := b.guest.NewWriter()
	if b.features.Header {
		virtio := make([]byte, tap.HeaderLen)
		h.Put(virtio)
		w.Add(virtio)
	}
	w.Add(frame)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// A written is a frame that the guest got.
type written struct {
	virtio tap.Header
	frame  []byte
}

// read reads what is sent to the guest, until the test ends.
func (b *bench) read(t testing.TB) <-chan written {
	t.Helper()
	c := make(chan written, 1024)
	buf, n := make([]byte, tap.HeaderLen+tap.MaxFrame), 0
	if b.features.Header {
		n = tap.HeaderLen
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.guest.NewReader(buf).Run(func(size int) {
			var got written
			if n > 0 {
				var err error
				if got.virtio, err = tap.ParseHeader(buf, size-n); err != nil {
					t.Errorf("virtio-net header % x of %d bytes: %v", buf[:n], size-n, err)
				}
			}
			got.frame = append([]byte(nil), buf[n:size]...)
			c <- got
		})
	}()
	t.Cleanup(func() {
		b.guest.Close()
		<-done
	})
	return c
}

// frame returns a frame of n bytes from the guest to the gateway.
func frame(n int, etherType uint16) []byte {
	b := append([]byte(nil), gatewayMAC...)
	b = append(b, guestMAC...)
	b = append(b, byte(etherType>>8), byte(etherType))
	for i := len(b); i < n; i++ {
		b = append(b, byte(i^i>>8))
	}
	return b[:n]
}
