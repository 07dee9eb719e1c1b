package engine

import (
	"net/netip"
	"os"
	"testing"
)

// The host may change while an engine that died is started again: what the
// supervisor says of it comes before the start, and must not be lost or fatal.
func TestHostChangesBeforeStart(t *testing.T) {
	ours, file, err := newWire()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	theirs := &wire{file}
	defer theirs.close()
	device, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	server := netip.MustParseAddrPort("192.0.2.53:53")
	if err := ours.send(message{Host: &hostState{Servers: []netip.AddrPort{server}}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := ours.send(message{Start: &spec{MTU: 1500}}, device); err != nil {
		t.Fatal(err)
	}
	s, got, err := receiveStart(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if s.MTU != 1500 || len(s.Host.Servers) != 1 || s.Host.Servers[0] != server {
		t.Errorf("got MTU %d and servers %v, want 1500 and %v", s.MTU, s.Host.Servers, server)
	}
}
