package engine

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"taproot/internal/plan"
	"taproot/test/settle"
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
	p := plan.Plan{Interface: "tap7"}
	if err := ours.send(message{Plan: &p}); err != nil {
		t.Fatal(err)
	}
	if err := ours.send(message{Unpublish: 3}); err != nil {
		t.Fatal(err)
	}
	if err := ours.send(message{Start: &spec{Verbose: true}}, device); err != nil {
		t.Fatal(err)
	}
	got, err := receiveStart(theirs, "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer got.device.Close()
	if s := got.spec; !s.Verbose || len(s.Host.Servers) != 1 || s.Host.Servers[0] != server {
		t.Errorf("got %+v, want the spec with server %v", s, server)
	}
	if got.spec.Plan.Interface != p.Interface {
		t.Errorf("got plan %+v, want the newer %+v", got.spec.Plan, p)
	}
	if err := ours.file.SetReadDeadline(time.Now().Add(settle.Patience)); err != nil {
		t.Fatal(err)
	}
	if m, _, err := ours.receive(); err != nil || m.Closed != 3 {
		t.Errorf("rule that was never opened: got %+v and error %v, want it closed", m, err)
	}
}
