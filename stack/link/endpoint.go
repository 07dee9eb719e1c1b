package link

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
)

// queueLen is how many of the stack's packets may wait for the writer. A
// superframe is 64 KiB, so that 256 of them are at most 16 MiB, and more than
// any one connection's window.
const queueLen = 256

// A Classifier sees each frame before the stack does, on the reader. It returns
// true when it took the frame. It must not block.
type Classifier interface {
	Classify(f *Frame) bool
}

// A Config describes an endpoint.
type Config struct {
	// Device is where the frames come from. The endpoint closes it.
	Device *tap.Device

	// MTU is what the stack may believe, in bytes of IP packet.
	MTU int

	// MAC is the gateway's hardware address.
	MAC net.HardwareAddr

	// Filter tells whether the guest may send a packet with this head, which
	// starts at the Ethernet header. nil lets all pass.
	Filter func(head []byte) bool

	// Idle is called on the reader when the frames that were waiting have been
	// handled. nil calls nobody.
	Idle func()

	// Linger is tap.Reader.Linger. nil means not at all.
	Linger func() time.Duration

	// Rest is asked on the reader, when there have been frames for a while without a
	// pause, how long it shall leave those that follow in the device, whose queue is
	// the guest's. nil means not at all.
	Rest func() time.Duration

	// Capture gets every frame both ways, as the device has it but without the
	// virtio-net header, in the format of pcap. The endpoint closes it. nil
	// captures nothing.
	Capture *os.File

	// Classifier may take frames away from the stack. nil takes none.
	Classifier Classifier
}

// Stats count frames. All fields may be read at any time.
type Stats struct {
	Received   atomic.Uint64 // frames read
	Sent       atomic.Uint64 // frames written
	Malformed  atomic.Uint64 // too short, or the header contradicts the frame
	Foreign    atomic.Uint64 // to another hardware address
	Spoofed    atomic.Uint64 // refused by the filter
	Unsent     atomic.Uint64 // not taken by the device
	Uncaptured atomic.Uint64 // not written to the capture, after its first error
}

// An Endpoint is the stack's end of the link. It implements
// stack.LinkEndpoint and stack.GSOEndpoint.
type Endpoint struct {
	Stats Stats

	device     *tap.Device
	features   tap.Features
	mac        tcpip.LinkAddress
	filter     func([]byte) bool
	idle       func()
	linger     func() time.Duration
	rest       func() time.Duration
	classifier Classifier
	capture    *capture // nil if there is none
	mtu        atomic.Uint32

	// guest is the guest's hardware address, as its last frame had it, in the
	// lower 48 bits. It starts as broadcast; met is closed when it is known,
	// by the reader.
	guest atomic.Uint64
	met   chan struct{}

	queue   chan *stack.PacketBuffer
	stopped chan struct{} // closed when the writer leaves
	writers sync.Pool     // of *frameWriter

	mu sync.RWMutex
	// +checklocks:mu
	dispatcher stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*Endpoint)(nil)
	_ stack.GSOEndpoint  = (*Endpoint)(nil)
)

// New returns an endpoint on cfg.Device, which it takes over.
func New(cfg Config) *Endpoint {
	e := &Endpoint{
		device:     cfg.Device,
		features:   cfg.Device.Features(),
		mac:        tcpip.LinkAddress(cfg.MAC),
		filter:     cfg.Filter,
		idle:       cfg.Idle,
		linger:     cfg.Linger,
		rest:       cfg.Rest,
		classifier: cfg.Classifier,
		queue:      make(chan *stack.PacketBuffer, queueLen),
		met:        make(chan struct{}),
		stopped:    make(chan struct{}),
	}
	if cfg.Capture != nil {
		e.capture = newCapture(cfg.Capture, &e.Stats.Uncaptured)
	}
	e.writers.New = func() any { return &frameWriter{Writer: e.device.NewWriter()} }
	e.mtu.Store(uint32(cfg.MTU))
	e.guest.Store(broadcast)
	return e
}

// broadcast is a hardware address as Endpoint.guest has it.
const broadcast = 1<<48 - 1

// Met is closed when the guest's hardware address is known, which is with its
// first frame. Until then, frames to the guest are broadcast, and its kernel
// drops those with TCP.
func (e *Endpoint) Met() <-chan struct{} { return e.met }

// Run moves frames both ways until ctx ends, which is no error, or the device
// fails. It owns two goroutines and a watcher of ctx; all have returned when
// Run returns, and device and capture are closed.
func (e *Endpoint) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		e.device.Close()
	})
	wg.Go(func() { e.send(ctx) })
	err := e.receive()
	cancel()
	wg.Wait()
	if e.capture != nil {
		e.capture.close()
	}
	return err
}

// Stop ends Run after the frames that are waiting now.
func (e *Endpoint) Stop() error { return e.device.Stop() }

// Attach implements stack.LinkEndpoint.
func (e *Endpoint) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dispatcher = d
}

// IsAttached implements stack.LinkEndpoint.
func (e *Endpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// MTU implements stack.LinkEndpoint.
func (e *Endpoint) MTU() uint32 { return e.mtu.Load() }

// SetMTU implements stack.LinkEndpoint.
func (e *Endpoint) SetMTU(mtu uint32) { e.mtu.Store(mtu) }

// MaxHeaderLength implements stack.LinkEndpoint.
func (e *Endpoint) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements stack.LinkEndpoint.
func (e *Endpoint) LinkAddress() tcpip.LinkAddress { return e.mac }

// SetLinkAddress implements stack.LinkEndpoint. The address is fixed.
func (e *Endpoint) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint. Link addresses need no
// resolution: there is one guest, and AddHeader knows its address.
func (e *Endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// GSOMaxSize implements stack.GSOEndpoint. The stack takes its headers off.
func (e *Endpoint) GSOMaxSize() uint32 { return 65536 }

// SupportedGSO implements stack.GSOEndpoint.
func (e *Endpoint) SupportedGSO() stack.SupportedGSO {
	if e.features.TSO {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// ARPHardwareType implements stack.LinkEndpoint.
func (e *Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// Wait implements stack.LinkEndpoint. Run waits.
func (e *Endpoint) Wait() {}

// Close implements stack.LinkEndpoint.
func (e *Endpoint) Close() { e.device.Close() }

// SetOnCloseAction implements stack.LinkEndpoint.
func (e *Endpoint) SetOnCloseAction(func()) {}
