package engine

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/portfwd"
)

// TestHearNeed wants only sockets made inside the guest that an engine of ours
// asks for: one that somebody has taken over shall not get others.
func TestHearNeed(t *testing.T) {
	for _, tt := range []struct {
		r    socketRequest
		want bool
	}{
		{socketRequest{Family: unix.AF_INET, Type: unix.SOCK_STREAM}, true},
		{socketRequest{Family: unix.AF_INET, Type: unix.SOCK_DGRAM}, true},
		{socketRequest{Family: unix.AF_INET6, Type: unix.SOCK_STREAM}, true},
		{socketRequest{Family: unix.AF_INET6, Type: unix.SOCK_DGRAM}, true},
		{socketRequest{Family: unix.AF_INET, Type: unix.SOCK_RAW}, false},
		{socketRequest{Family: unix.AF_PACKET, Type: unix.SOCK_DGRAM}, false},
		{socketRequest{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW}, false},
		{socketRequest{Family: unix.AF_INET6, Type: unix.SOCK_STREAM, Clients: maxRights}, true},
		{socketRequest{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Clients: maxRights + 1}, false},
		{socketRequest{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Clients: -1}, false},
		{socketRequest{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Clients: 1}, false},
		{socketRequest{}, false},
	} {
		s := &supervisor{needed: make(chan socketRequest, 1)}
		s.hear(nil, message{Need: &tt.r}, nil)
		if got := len(s.needed) == 1; got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.r, got, tt.want)
		}
	}
}

// TestCarrier wants sockets to be brought in as few messages as hold them, in
// order.
func TestCarrier(t *testing.T) {
	const n = 2*maxRights + 7
	ours, theirs := newWirePair(t)
	s := &supervisor{engine: &process{wire: ours}}
	listeners, sockets := make([]portfwd.Listener, n), make([]*os.File, n)
	f := files(t, 1)[0]
	for i := range n {
		listeners[i] = portfwd.Listener{Rule: 1, Index: i, TargetPort: uint16(1000 + i)}
		sockets[i] = f
	}
	sent := make(chan error, 1)
	go func() { sent <- carrier{s}.Publish(listeners, sockets) }()
	var got []portfwd.Listener
	messages := 0
	for len(got) < n {
		m, arrived, err := theirs.receive()
		if err != nil {
			t.Fatal(err)
		}
		if len(arrived) != len(m.Publish) {
			t.Errorf("message %d: got %d sockets of %d listeners", messages, len(arrived), len(m.Publish))
		}
		closeAll(arrived)
		got = append(got, m.Publish...)
		messages++
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if messages != 3 || !slices.Equal(got, listeners) {
		t.Errorf("got %d listeners in %d messages, want %d in 3", len(got), messages, n)
	}
}

// TestUnpublishMeanwhile wants an engine that takes over to hear of rules that were taken
// away while it waited.
func TestUnpublishMeanwhile(t *testing.T) {
	old, oldTheirs := newWirePair(t)
	next, theirs := newWirePair(t)
	s := &supervisor{engine: &process{wire: old}, spec: &spec{NoDevice: true}}
	oldTheirs.close() // it has yielded
	s.exchanges(true)
	if _, err := (carrier{s}).Unpublish(7, portfwd.ExistingKilled); err != nil {
		t.Fatal(err)
	}
	if err := s.handOver(&process{wire: next}); err != nil {
		t.Fatal(err)
	}
	if _, err := (carrier{s}).Unpublish(8, portfwd.ExistingStay); err != nil {
		t.Fatal(err)
	}
	s.exchanges(false)
	var got []string
	for range 4 {
		m, _, err := theirs.receive()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(m.Host != nil, m.Unpublish, m.EndFlows, m.Go))
	}
	want := []string{"true 0 false false", "false 7 true false", "false 0 false true", "false 8 false false"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if s.removed != nil {
		t.Errorf("got %v, want nothing kept", s.removed)
	}
}
