package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"taproot/stack/flow"
	"taproot/stack/policy"
	"taproot/test/settle"
)

// A world is what a fake scan finds.
type world struct {
	mu sync.Mutex
	// +checklocks:mu
	open []Open
	// +checklocks:mu
	err error
}

func (w *world) set(err error, open ...Open) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open, w.err = open, err
}

func (w *world) scan(flow.Proto) ([]Open, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open, w.err
}

func allPorts(t *testing.T) policy.Ports { return ports(t, "all") }

// newAuto returns an Auto in a world of its own, which is stepped by hand.
func newAuto(t *testing.T, table *Table, cfg AutoConfig) (*Auto, *world) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { r.Close() })
	cfg.Table = table
	if cfg.Allow.None() {
		cfg.Allow = allPorts(t)
	}
	a, there := NewAuto(cfg, r), &world{}
	a.scan = there.scan
	return a, there
}

// rules returns the ports that a table has in a direction.
func rules(table *Table, d Direction) map[uint16]bool {
	ports := make(map[uint16]bool)
	for _, e := range table.List() {
		if e.Rule.Direction == d {
			ports[e.Rule.Listen.Port()] = true
		}
	}
	return ports
}

func TestAutoFollows(t *testing.T) {
	table, _ := newRecorded(t)
	first := freeRange(t, 3)
	a, w := newAuto(t, table, AutoConfig{Listen: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
	w.set(nil, Open{flow.TCP, netip.IPv4Unspecified(), first}, Open{flow.TCP, netip.IPv6Unspecified(), first},
		Open{flow.TCP, guest4, first + 1}, Open{flow.TCP, netip.IPv6Loopback(), first + 2})
	step := func() {
		t.Helper()
		if err := a.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	step()
	step()
	if got := rules(table, Inbound); len(got) != 2 || !got[first] || !got[first+1] {
		t.Errorf("got %v, want %d and %d", got, first, first+1)
	}
	for _, e := range table.List() {
		if !e.Auto {
			t.Errorf("%v: auto: got false, want true", e.Rule)
		}
	}
	w.set(nil, Open{flow.TCP, guest4, first + 1})
	step()
	if got := rules(table, Inbound); len(got) != 1 || !got[first+1] {
		t.Errorf("got %v, want %d", got, first+1)
	}
	w.set(errors.New("no"))
	if err := a.step(t.Context()); err == nil {
		t.Error("got no error")
	}
	if got := rules(table, Inbound); len(got) != 1 {
		t.Errorf("after an error: got %v, want the rule to stay", got)
	}
}

// TestAutoTwoAddresses has the same port published at several addresses, as with
// those of both loopbacks. Those that a rule has already are left out.
func TestAutoTwoAddresses(t *testing.T) {
	table, _ := newRecorded(t)
	port := freeRange(t, 1)
	local4, local6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	for range 2 {
		for _, address := range []netip.Addr{local4, local6, netip.IPv4Unspecified(), {}} {
			a, w := newAuto(t, table, AutoConfig{Listen: address, Freebind: true})
			w.set(nil, Open{flow.TCP, netip.IPv4Unspecified(), port})
			if err := a.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []netip.Addr
	for _, e := range table.List() {
		got = append(got, e.Rule.Listen.Addr())
		if !e.Rule.Freebind {
			t.Errorf("%v: Freebind: got false, want that of the configuration", e.Rule)
		}
	}
	if want := []netip.Addr{local4, local6}; !slices.Equal(got, want) {
		t.Errorf("got rules at %v, want %v", got, want)
	}
}

func TestAutoLeavesOut(t *testing.T) {
	first := freeRange(t, 4)
	any4, local := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, tt := range []struct {
		name string
		cfg  AutoConfig
		open Open
		want bool
	}{
		{"any", AutoConfig{}, Open{flow.TCP, any4, first}, true},
		{"not allowed", AutoConfig{Allow: ports(t, "1-10")}, Open{flow.TCP, any4, first}, false},
		{"of the guest's loopback", AutoConfig{}, Open{flow.TCP, local, first}, false},
		{"of the guest's loopback, to loopback", AutoConfig{Loopback: true}, Open{flow.TCP, local, first}, true},
		{"of the guest's address, to both", AutoConfig{Loopback: true}, Open{flow.TCP, guest4, first}, true},
		{"of the host's loopback", AutoConfig{Direction: Outbound}, Open{flow.TCP, local, first}, true},
		{"of the host's address", AutoConfig{Direction: Outbound}, Open{flow.TCP, guest4, first}, false},
		{"ours of the other direction", AutoConfig{}, Open{flow.TCP, any4, first + 1}, false},
		{"published already", AutoConfig{}, Open{flow.TCP, any4, first + 2}, false},
		{"taken", AutoConfig{}, Open{flow.TCP, any4, first + 3}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, _ := newRecorded(t)
			for _, r := range []Rule{
				{Direction: Outbound, Listen: netip.AddrPortFrom(local, first+1)},
				{Direction: Inbound, Listen: netip.AddrPortFrom(local, first+2)},
			} {
				if _, err := table.Add(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			taken, err := net.Listen("tcp4", netip.AddrPortFrom(local, first+3).String())
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			tt.cfg.Listen = local
			a, w := newAuto(t, table, tt.cfg)
			w.set(nil, tt.open)
			if err := a.step(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := len(table.List()) == 3; got != tt.want {
				t.Errorf("published: got %v, want %v", got, tt.want)
			}
		})
	}
}

func ports(t *testing.T, s string) policy.Ports {
	t.Helper()
	p, err := policy.ParsePorts(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAutoRetries wants a port that was taken to be tried again, but not at
// once, unless its listener came anew.
func TestAutoRetries(t *testing.T) {
	table, _ := newRecorded(t)
	port := freeRange(t, 1)
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	taken, err := net.Listen("tcp4", netip.AddrPortFrom(local, port).String())
	if err != nil {
		t.Fatal(err)
	}
	a, w := newAuto(t, table, AutoConfig{Listen: local})
	there := Open{flow.TCP, netip.IPv4Unspecified(), port}
	step := func() {
		t.Helper()
		if err := a.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.set(nil, there)
	step()
	taken.Close()
	step()
	if got := len(table.List()); got != 0 {
		t.Fatalf("at once: got %d rules, want 0", got)
	}
	a.retry[port] = time.Now()
	step()
	if got := len(table.List()); got != 1 {
		t.Fatalf("later: got %d rules, want 1", got)
	}
	a.retry[port] = time.Now().Add(time.Hour)
	w.set(nil)
	step()
	w.set(nil, there)
	step()
	if got := len(table.List()); got != 1 {
		t.Errorf("a new listener: got %d rules, want 1", got)
	}
}

// TestFollow follows real listeners, and ends.
func TestFollow(t *testing.T) {
	table, _ := newRecorded(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	cfg := AutoConfig{Table: table, Loopback: true, Listen: netip.MustParseAddr("127.0.0.2"), Allow: allPorts(t), Period: time.Millisecond}
	a := NewAuto(cfg, newScanner(t).file)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Follow(ctx, []*Auto{a}, func(err error) { t.Error(err) })
	}()
	settle.Until(t, "published", func() bool { return rules(table, Inbound)[port] })
	stop()
	<-ended
	broken, w := newAuto(t, table, AutoConfig{Period: time.Millisecond})
	w.set(errors.New("no"))
	failed := 0
	Follow(t.Context(), []*Auto{broken}, func(error) { failed++ })
	if failed != 1 {
		t.Errorf("failed: got %d times, want once", failed)
	}
}
