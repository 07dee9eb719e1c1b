package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
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

func (w *world) scan(*Scanner, flow.Proto) ([]Open, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open, w.err
}

func allPorts(t *testing.T) policy.Ports { return ports(t, "all") }

// newFollowing returns a table whose automatic rules follow a world of its own,
// when they are stepped by hand.
func newFollowing(t *testing.T) (*Table, *world) {
	t.Helper()
	there := &world{}
	table := NewTable(TableConfig{Carrier: &recorder{}, Sockets: socketsHere, Diag: func(context.Context, Direction) (*os.File, error) {
		return os.Open(os.DevNull)
	}})
	t.Cleanup(table.Close)
	table.autos.scan = there.scan
	return table, there
}

// addAuto adds an automatic rule for all ports, if it does not say which.
func addAuto(t *testing.T, table *Table, cfg AutoConfig) (id int, a *auto) {
	t.Helper()
	if cfg.Allow.None() {
		cfg.Allow = allPorts(t)
	}
	id, err := table.AddAuto(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return id, table.autos.rules[id]
}

// ofPorts returns the rules that are not automatic.
func ofPorts(table *Table) []Entry {
	return slices.DeleteFunc(table.List(), func(e Entry) bool { return e.Follows })
}

// rules returns the ports that a table has in a direction.
func rules(table *Table, d Direction) map[uint16]bool {
	ports := make(map[uint16]bool)
	for _, e := range ofPorts(table) {
		if e.Rule.Direction == d {
			ports[e.Rule.Listen.Port()] = true
		}
	}
	return ports
}

func TestAutoFollows(t *testing.T) {
	table, w := newFollowing(t)
	first := freeRange(t, 3)
	id, _ := addAuto(t, table, AutoConfig{Listen: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
	w.set(nil, Open{flow.TCP, netip.IPv4Unspecified(), first}, Open{flow.TCP, netip.IPv6Unspecified(), first},
		Open{flow.TCP, guest4, first + 1}, Open{flow.TCP, netip.IPv6Loopback(), first + 2})
	table.follow(t.Context())
	table.follow(t.Context())
	if got := rules(table, Inbound); len(got) != 2 || !got[first] || !got[first+1] {
		t.Errorf("got %v, want %d and %d", got, first, first+1)
	}
	for _, e := range ofPorts(table) {
		if e.By != id {
			t.Errorf("%v: by %d, want %d", e.Rule, e.By, id)
		}
	}
	w.set(nil, Open{flow.TCP, guest4, first + 1})
	table.follow(t.Context())
	if got := rules(table, Inbound); len(got) != 1 || !got[first+1] {
		t.Errorf("got %v, want %d", got, first+1)
	}
	w.set(nil)
	table.follow(t.Context())
	if got := rules(table, Inbound); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// TestAutoFails wants ports to stay while nobody can tell who listens, and the
// rule to say so as long as that is.
func TestAutoFails(t *testing.T) {
	table, w := newFollowing(t)
	port := freeRange(t, 1)
	id, _ := addAuto(t, table, AutoConfig{Listen: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
	there := Open{flow.TCP, netip.IPv4Unspecified(), port}
	w.set(nil, there)
	table.follow(t.Context())
	state := func() Entry { return table.List()[0] }
	for i, tt := range []struct {
		err    error
		rounds int
		want   string
	}{{errors.New("no"), scanTries - 1, ""}, {errors.New("no"), 1, "no"}, {nil, 1, "no"}} {
		w.set(tt.err, there)
		for range tt.rounds {
			table.follow(t.Context())
		}
		if got := state(); got.ID != id || got.State != StateFollowing || got.Err != tt.want {
			t.Errorf("%d: got %+v, want %q", i, got, tt.want)
		}
	}
	if got := rules(table, Inbound); !got[port] {
		t.Errorf("got %v, want %d to stay", got, port)
	}
	table.autos.failures[side{Inbound, flow.TCP}] = failure{scans: scanTries}
	table.follow(t.Context())
	if got := state(); got.Err != "" {
		t.Errorf("it works again: got %q, want no error", got.Err)
	}
}

// TestAutoFailsOne wants the rule of a protocol whose ports cannot be listed to say so,
// while those of the other one are found as before. What lists both is begun anew only
// where neither is found.
func TestAutoFailsOne(t *testing.T) {
	table, w := newFollowing(t)
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	_, tcp := addAuto(t, table, AutoConfig{Listen: local})
	id, udp := addAuto(t, table, AutoConfig{Listen: local, Proto: flow.UDP})
	table.autos.scan = func(s *Scanner, p flow.Proto) ([]Open, error) {
		if p == flow.UDP {
			return nil, errors.New("no")
		}
		return w.scan(s, p)
	}
	port := freeRange(t, 1)
	w.set(nil, Open{flow.TCP, netip.IPv4Unspecified(), port})
	scanner := table.autos.scanners[Inbound]
	for range scanTries {
		table.follow(t.Context())
	}
	if tcp.told || !udp.told {
		t.Errorf("told: got %v by TCP and %v by UDP, want UDP only", tcp.told, udp.told)
	}
	for _, e := range table.List() {
		if want := map[bool]string{true: "no"}[e.ID == id]; e.Err != want {
			t.Errorf("%v: got %q, want %q", e.Spec(), e.Err, want)
		}
	}
	if got := rules(table, Inbound); !got[port] {
		t.Errorf("got %v, want %d", got, port)
	}
	if table.autos.scanners[Inbound] != scanner {
		t.Error("what lists TCP was closed")
	}
	w.set(errors.New("nor that"))
	for range scanTries {
		table.follow(t.Context())
	}
	if !tcp.told || table.autos.scanners[Inbound] != nil {
		t.Errorf("neither is found: got told %v by TCP and %v, want it told and closed", tcp.told, table.autos.scanners[Inbound])
	}
	if err := table.Remove(id); err != nil {
		t.Fatal(err)
	}
	if _, ok := table.autos.failures[side{Inbound, flow.UDP}]; ok {
		t.Error("the failure of a rule that is gone is remembered")
	}
}

// TestAutoRemove removes an automatic rule with its ports, and wants the one of
// which somebody has removed a port not to have it again.
func TestAutoRemove(t *testing.T) {
	table, w := newFollowing(t)
	first := freeRange(t, 2)
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	id, _ := addAuto(t, table, AutoConfig{Listen: local})
	other, _ := addAuto(t, table, AutoConfig{Listen: netip.AddrFrom4([4]byte{127, 0, 0, 2}), Allow: ports(t, strconv.Itoa(int(first)))})
	w.set(nil, Open{flow.TCP, netip.IPv4Unspecified(), first}, Open{flow.TCP, netip.IPv4Unspecified(), first + 1})
	table.follow(t.Context())
	byHand := ofPorts(table)[0]
	if err := table.Remove(byHand.ID); err != nil {
		t.Fatal(err)
	}
	table.follow(t.Context())
	for _, e := range ofPorts(table) {
		if e.Rule == byHand.Rule {
			t.Errorf("%v is back", e.Rule)
		}
	}
	if err := table.Remove(id); err != nil {
		t.Fatal(err)
	}
	table.follow(t.Context())
	for _, e := range table.List() {
		if e.ID == id || e.By == id {
			t.Errorf("%v is left", e.Rule)
		}
	}
	if err := table.Remove(id); !errors.Is(err, ErrNoRule) {
		t.Errorf("again: got %v, want %v", err, ErrNoRule)
	}
	if err := table.RemoveKill(other); err != nil || len(table.List()) != 0 {
		t.Errorf("the other one: got %v and %v, want nothing left", err, table.List())
	}
}

// TestAutoYields wants a port that is named to be had by who has named it, although it
// was published automatically, and automatically again when that one is gone.
func TestAutoYields(t *testing.T) {
	table, w := newFollowing(t)
	first := freeRange(t, 3)
	id, _ := addAuto(t, table, AutoConfig{Listen: netip.IPv4Unspecified()})
	var listening []Open
	for i := range uint16(3) {
		listening = append(listening, Open{flow.TCP, netip.IPv4Unspecified(), first + i})
	}
	w.set(nil, listening...)
	want := func(when string, automatic, named int) {
		t.Helper()
		table.follow(t.Context())
		got := [2]int{}
		for _, e := range ofPorts(table) {
			if e.By == id {
				got[0]++
			} else {
				got[1]++
			}
		}
		if got != [2]int{automatic, named} {
			t.Errorf("%s: got %d automatic and %d named, want %d and %d", when, got[0], got[1], automatic, named)
		}
	}
	want("at first", 3, 0)
	local := addrPort("127.0.0.1:" + strconv.Itoa(int(first)))
	named, err := table.Add(t.Context(), Rule{Listen: local, Ports: 2, Target: port(80)})
	if err != nil {
		t.Fatal(err)
	}
	want("two of them named", 1, 1)
	var bind *BindError
	if _, err := table.Add(t.Context(), Rule{Listen: local}); !errors.As(err, &bind) || bind.Holder != "rule "+strconv.Itoa(named) {
		t.Errorf("named again: got %v, want rule %d to hold it", err, named)
	}
	want("one named again", 1, 1)
	if err := table.Remove(named); err != nil {
		t.Fatal(err)
	}
	want("none named any more", 3, 0)
}

// TestAutoUnknown wants no automatic rule where nobody can tell who listens.
func TestAutoUnknown(t *testing.T) {
	table, _ := newRecorded(t)
	if _, err := table.AddAuto(t.Context(), AutoConfig{Allow: allPorts(t)}); !errors.Is(err, errNoDiag) {
		t.Errorf("got %v, want %v", err, errNoDiag)
	}
	if _, err := table.AddAuto(t.Context(), AutoConfig{Direction: Outbound, Local: true}); !errors.Is(err, ErrRule) {
		t.Errorf("got %v, want %v", err, ErrRule)
	}
	if got := table.List(); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}

// TestAutoTwoAddresses has the same port published at several addresses, as with
// those of both loopbacks. Those that a rule has already are left out.
func TestAutoTwoAddresses(t *testing.T) {
	table, w := newFollowing(t)
	port := freeRange(t, 1)
	local4, local6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	for range 2 {
		for _, address := range []netip.Addr{local4, local6, netip.IPv4Unspecified(), {}} {
			addAuto(t, table, AutoConfig{Listen: address, Freebind: true})
			w.set(nil, Open{flow.TCP, netip.IPv4Unspecified(), port})
			table.follow(t.Context())
		}
	}
	var got []netip.Addr
	for _, e := range ofPorts(table) {
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
			table, w := newFollowing(t)
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
			addAuto(t, table, tt.cfg)
			w.set(nil, tt.open)
			table.follow(t.Context())
			if got := len(ofPorts(table)) == 3; got != tt.want {
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
	table, w := newFollowing(t)
	port := freeRange(t, 1)
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	taken, err := net.Listen("tcp4", netip.AddrPortFrom(local, port).String())
	if err != nil {
		t.Fatal(err)
	}
	_, a := addAuto(t, table, AutoConfig{Listen: local})
	there := Open{flow.TCP, netip.IPv4Unspecified(), port}
	step := func() { table.follow(t.Context()) }
	w.set(nil, there)
	step()
	taken.Close()
	step()
	if got := len(ofPorts(table)); got != 0 {
		t.Fatalf("at once: got %d rules, want 0", got)
	}
	a.retry[port] = time.Now()
	step()
	if got := len(ofPorts(table)); got != 1 {
		t.Fatalf("later: got %d rules, want 1", got)
	}
	a.retry[port] = time.Now().Add(time.Hour)
	w.set(nil)
	step()
	w.set(nil, there)
	step()
	if got := len(ofPorts(table)); got != 1 {
		t.Errorf("a new listener: got %d rules, want 1", got)
	}
}

// TestFollow follows real listeners, and ends.
func TestFollow(t *testing.T) {
	table := NewTable(TableConfig{Carrier: &recorder{}, Diag: func(context.Context, Direction) (*os.File, error) { return newDiag(t), nil }})
	defer table.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		table.Follow(ctx)
	}()
	cfg := AutoConfig{Loopback: true, Listen: netip.MustParseAddr("127.0.0.2"), Allow: allPorts(t), Period: time.Millisecond}
	id, err := table.AddAuto(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "published", func() bool { return rules(table, Inbound)[port] })
	if err := table.Remove(id); err != nil || len(table.List()) != 0 {
		t.Errorf("removed: got %v and %v, want nothing left", err, table.List())
	}
	if _, err = table.AddAuto(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "published again", func() bool { return rules(table, Inbound)[port] })
	stop()
	<-ended
}

// TestFollowSoon wants a rule to be there within 100 ms of a listener, whenever in
// between two looks that comes, and to be gone as soon as it is.
func TestFollowSoon(t *testing.T) {
	const soon, step = 100 * time.Millisecond, time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		table, w := newFollowing(t)
		first := freeRange(t, 1)
		listening := Open{flow.TCP, netip.IPv4Unspecified(), first}
		addAuto(t, table, AutoConfig{Listen: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { table.Follow(ctx) })
		defer wg.Wait()
		defer stop()
		for phase := range autoPeriod / step {
			time.Sleep(phase * step)
			for _, open := range [][]Open{{listening}, nil} {
				w.set(nil, open...)
				begun := time.Now()
				for time.Since(begun) < soon && len(ofPorts(table)) != len(open) {
					time.Sleep(step)
					synctest.Wait()
				}
				if got := len(ofPorts(table)); got != len(open) {
					t.Fatalf("phase %v: got %d rules, want %d within %v", phase*step, got, len(open), soon)
				}
			}
		}
	})
}
