package engine

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"taproot/internal/plan"
	"taproot/stack"
	"taproot/tap"
	"taproot/tap/taptest"
)

// newTestGateway returns a gateway that only decides where packets go.
func newTestGateway(t *testing.T, o plan.Offsets, cfg Config) *gateway {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	g := &gateway{spec: testSpec(t, o, cfg)}
	g.plan.Store(&g.spec.Plan)
	if g.stack, err = stack.New(stack.Config{Device: a, MTU: 1500, MAC: g.spec.Plan.GatewayMAC}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // ends the stack's own goroutines
	if err := g.stack.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestSplit(t *testing.T) {
	g := &gateway{}
	for _, tt := range []struct {
		name    string
		payload string
		segment int
		want    []string
	}{
		{"one", "abcdef", 0, []string{"abcdef"}},
		{"one, of the segment's size", "abcdef", 6, []string{"abcdef"}},
		{"one, shorter", "abc", 6, []string{"abc"}},
		{"three", "aabbcc", 2, []string{"aa", "bb", "cc"}},
		{"last shorter", "aabbc", 2, []string{"aa", "bb", "c"}},
		{"no size", "abc", -1, []string{"abc"}},
		{"empty", "", 0, nil},
	} {
		var got []string
		g.split(stack.Datagram{Payload: []byte(tt.payload), Segment: tt.segment, TTL: 7}, func(d stack.Datagram) {
			if d.Segment != 0 || d.TTL != 7 {
				t.Errorf("%s: got segment %d and TTL %d, want 0 and 7", tt.name, d.Segment, d.TTL)
			}
			got = append(got, string(d.Payload))
		})
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestIsResolver(t *testing.T) {
	on, off := newTestGateway(t, plan.Offsets{}, Config{}), newTestGateway(t, plan.Offsets{}, Config{DNS: DNS{Off: true}})
	one := newTestGateway(t, plan.Offsets{Net6: plan.Network{Off: true}}, Config{})
	for _, tt := range []struct {
		g    *gateway
		to   string
		want bool
	}{
		{on, "10.0.2.3:53", true}, {on, "[fd00::3]:53", true}, {on, "10.0.2.3:54", false}, {on, "10.0.2.2:53", false},
		{on, "9.9.9.9:53", false}, {off, "10.0.2.3:53", false}, {off, "[fd00::3]:53", false},
		{one, "10.0.2.3:53", true}, {one, "[fd00::3]:53", false},
	} {
		if got := tt.g.isResolver(netip.MustParseAddrPort(tt.to)); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.to, got, tt.want)
		}
	}
}

func TestToGateway(t *testing.T) {
	g := newTestGateway(t, plan.Offsets{}, Config{})
	for to, want := range map[string]bool{
		"10.0.2.2": true, "fd00::2": true, g.stack.LinkLocal().String(): true,
		"255.255.255.255": true, "ff02::1:2": true, "224.0.0.1": true,
		"10.0.2.3": false, "10.0.2.100": false, "198.51.100.1": false, "fd00::3": false, "fe80::1": false,
	} {
		if got := g.toGateway(netip.MustParseAddr(to)); got != want {
			t.Errorf("%s: got %v, want %v", to, got, want)
		}
	}
}

// TestToNewGateway wants what the gateway serves to be served at its new
// address when the guest's network has changed: a DHCP client renews there.
func TestToNewGateway(t *testing.T) {
	g := newTestGateway(t, plan.Offsets{}, Config{})
	old, next := g.spec.Plan.V4.Gateway, netip.MustParseAddr("192.0.2.1")
	p := g.spec.Plan
	p.V4.Gateway = next
	g.plan.Store(&p)
	if g.toGateway(old) || !g.toGateway(next) {
		t.Errorf("%v, %v: got %v, %v, want false, true", old, next, g.toGateway(old), g.toGateway(next))
	}
}

func TestValid(t *testing.T) {
	a := netip.MustParseAddr("10.0.2.2")
	if got := valid(netip.Addr{}, a, netip.Addr{}); !slices.Equal(got, []netip.Addr{a}) {
		t.Errorf("got %v, want [%v]", got, a)
	}
}

// TestQuiet wants the host's state to be read once after a burst of changes,
// and a file that is replaced to be noticed by its directory.
func TestQuiet(t *testing.T) {
	dir := t.TempDir()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(dir); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"resolv.conf", "next", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	s, start := &supervisor{}, time.Now()
	if !s.quiet(t.Context(), changed, w) {
		t.Error("got false, want true")
	}
	if took := time.Since(start); took < quietTime {
		t.Errorf("took %v, want at least %v after the last change", took, quietTime)
	}
	if len(changed) != 0 || len(w.Events) != 0 {
		t.Error("changes are left")
	}
	never := make(chan struct{})
	rest := make(chan struct{})
	go func() {
		for {
			select {
			case never <- struct{}{}:
			case <-rest:
				return
			}
		}
	}()
	timeout, end := context.WithTimeout(t.Context(), 3*quietLongest)
	defer end()
	if !s.quiet(timeout, never, nil) {
		t.Error("without any rest: got false, want true")
	}
	close(rest)
	ended, end := context.WithCancel(t.Context())
	end()
	if s.quiet(ended, nil, nil) {
		t.Error("when all ends: got true, want false")
	}
	if events(nil) != nil || errorsOf(nil) != nil {
		t.Error("without a watcher: got channels, want none")
	}
}
