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
	if err := ours.send(message{Host: &hostState{Servers: []netip.AddrPort{server}}}); err != nil {
		t.Fatal(err)
	}
	if err := ours.send(message{Start: &spec{Verbose: true}}, device); err != nil {
		t.Fatal(err)
	}
	got, err := receiveStart(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer got.device.Close()
	if s := got.spec; !s.Verbose || len(s.Host.Servers) != 1 || s.Host.Servers[0] != server {
		t.Errorf("got %+v, want the spec with server %v", s, server)
	}
}
