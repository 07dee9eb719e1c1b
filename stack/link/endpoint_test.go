package link

import (
	"net"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// TestEndpoint wants what the stack asks before it sends anything.
func TestEndpoint(t *testing.T) {
	for name, f := range map[string]tap.Features{
		"plain":          {},
		"all":            {Header: true, Checksum: true, TSO: true, USO: true},
		"without UDP":    {Header: true, Checksum: true, TSO: true},
		"checksums only": {Header: true, Checksum: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, f, nil)
			want := stack.GSONotSupported
			if f.TSO {
				want = stack.HostGSOSupported
			}
			if got := b.SupportedGSO(); got != want {
				t.Errorf("GSO: got %v, want %v", got, want)
			}
			if b.Features() != f || b.MTU() != 1500 || b.LinkAddress() != tcpip.LinkAddress(gatewayMAC) || !b.IsAttached() {
				t.Errorf("got %+v, MTU %d, address %v, attached %v", b.Features(), b.MTU(), net.HardwareAddr(b.LinkAddress()), b.IsAttached())
			}
			if b.Capabilities()&stack.CapabilityResolutionRequired != 0 {
				t.Error("the stack would ask for the guest's hardware address")
			}
			if b.MaxHeaderLength() != header.EthernetMinimumSize || b.ARPHardwareType() != header.ARPHardwareEther {
				t.Errorf("got header of %d bytes, hardware %v", b.MaxHeaderLength(), b.ARPHardwareType())
			}
			b.SetMTU(9000)
			if got := b.MTU(); got != 9000 {
				t.Errorf("MTU: got %d, want 9000", got)
			}
		})
	}
}

// TestRunEnds wants Run to return when its context ends, when the device is
// closed, and when the other end of the wire is.
func TestRunEnds(t *testing.T) {
	for name, end := range map[string]func(*bench){
		"context": func(b *bench) { b.stop() },
		"close":   func(b *bench) { b.Close() },
		"wire":    func(b *bench) { b.guest.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, tap.Features{}, nil)
			end(b)
			if err := next(t, "end", b.ended); err != nil {
				t.Errorf("run: got %v, want nil", err)
			}
		})
	}
}

// TestRunWithoutStack wants frames that come before there is a stack to be
// counted, not to crash.
func TestRunWithoutStack(t *testing.T) {
	a, guest, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	e := New(Config{Device: a, MTU: 1500, MAC: gatewayMAC})
	ended := make(chan error, 1)
	go func() { ended <- e.Run(t.Context()) }()
	w := guest.NewWriter()
	w.Add(frame(60, etherIPv4))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "the frame is counted", func() bool { return e.Stats.Malformed.Load() == 1 })
	e.Close()
	if err := next(t, "end", ended); err != nil {
		t.Errorf("run: got %v, want nil", err)
	}
}
