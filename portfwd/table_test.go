package portfwd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// A recorder is a Carrier that notes what it is given.
type recorder struct {
	mu sync.Mutex
	// +checklocks:mu
	published []Listener
	// +checklocks:mu
	calls int // of Publish
	// +checklocks:mu
	unpublished []int
	// +checklocks:mu
	err error
	// slow is how long sockets are being closed, nil for not at all.
	// +checklocks:mu
	slow chan struct{}
}

func (r *recorder) Publish(listeners []Listener, _ []*os.File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published = append(r.published, listeners...)
	r.calls++
	return r.err
}

func (r *recorder) Unpublish(id int, _ Existing) (func() error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unpublished = append(r.unpublished, id)
	slow := r.slow
	return func() error {
		if slow != nil {
			<-slow
		}
		return nil
	}, nil
}

// publishedNow returns a copy of what was published.
func (r *recorder) publishedNow() []Listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.published)
}

func (r *recorder) Pause(SocketID) error  { return nil }
func (r *recorder) Resume(SocketID) error { return nil }

func newRecorded(t *testing.T) (*Table, *recorder) {
	r := &recorder{}
	table := NewTable(TableConfig{Carrier: r, Sockets: socketsHere})
	t.Cleanup(table.Close)
	return table, r
}

// freeRange returns the first of n ports that nobody has on 127.0.0.1.
func freeRange(t *testing.T, n int) uint16 {
	t.Helper()
	for first := 20000; first < 30000; first += n {
		free := true
		for i := range n {
			l, err := net.Listen("tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(first+i)).String())
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return uint16(first)
		}
	}
	t.Fatal("no free ports")
	return 0
}

func TestRange(t *testing.T) {
	table, r := newRecorded(t)
	first := freeRange(t, 10)
	listen := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), first)
	id, err := table.Add(t.Context(), Rule{Proto: flow.TCP, Listen: listen, Ports: 10, Target: netip.AddrPortFrom(guest4, 80)})
	if err != nil || id != 1 {
		t.Fatalf("got %d, %v, want 1", id, err)
	}
	if list := table.List(); len(list) != 1 || list[0].ID != 1 || list[0].Bound != 10 || list[0].Rule.Ports != 10 {
		t.Errorf("list: got %+v", list)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.published) != 10 {
		t.Fatalf("published: got %d sockets, want 10", len(r.published))
	}
	for i, l := range r.published {
		want := Listener{Rule: 1, Index: i, Proto: flow.TCP, Target: guest4, TargetPort: uint16(80 + i)}
		if l != want {
			t.Errorf("socket %d: got %+v, want %+v", i, l, want)
		}
	}
}

// TestTaken takes one port of a range away, for each kind of rule.
func TestTaken(t *testing.T) {
	for _, direction := range []Direction{Inbound, Outbound} {
		t.Run(direction.String(), func(t *testing.T) {
			table, r := newRecorded(t)
			first := freeRange(t, 3)
			loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			taken, err := net.Listen("tcp4", netip.AddrPortFrom(loopback, first+1).String())
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			rule := Rule{Direction: direction, Proto: flow.TCP, Listen: netip.AddrPortFrom(loopback, first), Ports: 3}
			_, err = table.Add(t.Context(), rule)
			var bind *BindError
			if !errors.As(err, &bind) || bind.Port != first+1 || !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatalf("got %v, want port %d in use", err, first+1)
			}
			if got := len(table.List()); got != 0 {
				t.Errorf("rules: got %d, want 0", got)
			}
			if l, err := net.Listen("tcp4", netip.AddrPortFrom(loopback, first).String()); err != nil {
				t.Errorf("left behind: %v", err)
			} else {
				l.Close()
			}
			rule.Weak = true
			id, err := table.Add(t.Context(), rule)
			if err != nil || id != 1 {
				t.Fatalf("weak: got %d, %v, want 1", id, err)
			}
			if got := table.List()[0].Bound; got != 2 {
				t.Errorf("weak: bound %d ports, want 2", got)
			}
			r.mu.Lock()
			ports := []uint16{r.published[0].TargetPort, r.published[1].TargetPort}
			r.mu.Unlock()
			if want := []uint16{first, first + 2}; !slices.Equal(ports, want) {
				t.Errorf("weak: got targets %v, want %v", ports, want)
			}
			rule.Listen, rule.Ports = netip.AddrPortFrom(loopback, first+1), 1
			if _, err := table.Add(t.Context(), rule); !errors.As(err, &bind) {
				t.Errorf("weak, none free: got %v, want a BindError", err)
			}
		})
	}
}

// TestDualStack wants one socket for both families, and one family each for
// 0.0.0.0 and ::.
func TestDualStack(t *testing.T) {
	for _, tt := range []struct {
		listen string
		v4, v6 bool
	}{
		{"", true, true},
		{"0.0.0.0:0", true, false},
		{"[::]:0", false, true},
	} {
		for _, p := range []flow.Proto{flow.TCP, flow.UDP} {
			table, r := newRecorded(t)
			if _, err := table.Add(t.Context(), Rule{Proto: p, Listen: addrPort(tt.listen)}); err != nil {
				t.Fatal(err)
			}
			port := table.List()[0].Rule.Listen.Port()
			if got := isTaken(p, "127.0.0.1", port); got != tt.v4 {
				t.Errorf("%q %v: IPv4: got %v, want %v", tt.listen, p, got, tt.v4)
			}
			if got := isTaken(p, "::1", port); got != tt.v6 {
				t.Errorf("%q %v: IPv6: got %v, want %v", tt.listen, p, got, tt.v6)
			}
			r.mu.Lock()
			if len(r.published) != 1 || r.published[0].TargetPort != port || port == 0 {
				t.Errorf("%q %v: published %+v, want one socket of port %d", tt.listen, p, r.published, port)
			}
			r.mu.Unlock()
		}
	}
}

// isTaken tells whether a port cannot be bound.
func isTaken(p flow.Proto, address string, port uint16) bool {
	r := Rule{Proto: p}
	s, err := listenAt(r, netip.AddrPortFrom(netip.MustParseAddr(address), port), true)
	if err == nil {
		s.file.Close()
	}
	return errors.Is(err, syscall.EADDRINUSE)
}

// TestUnpublished wants nothing to be left of a rule that the engine did not
// take.
func TestUnpublished(t *testing.T) {
	table, r := newRecorded(t)
	r.mu.Lock()
	r.err = errors.New("no")
	r.mu.Unlock()
	listen := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), freeRange(t, 1))
	if _, err := table.Add(t.Context(), Rule{Listen: listen}); err == nil {
		t.Fatal("got no error")
	}
	r.mu.Lock()
	r.err = nil
	if !slices.Equal(r.unpublished, []int{1}) {
		t.Errorf("unpublished: got %v, want [1]", r.unpublished)
	}
	r.mu.Unlock()
	if id, err := table.Add(t.Context(), Rule{Listen: listen}); err != nil || id != 2 {
		t.Errorf("again: got %d, %v, want 2", id, err)
	}
}

func TestClosedTable(t *testing.T) {
	table, _ := newRecorded(t)
	table.Close()
	if _, err := table.Add(t.Context(), Rule{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v, want %v", err, os.ErrClosed)
	}
	none := NewTable(TableConfig{Carrier: &recorder{}})
	if _, err := none.Add(t.Context(), Rule{Direction: Outbound}); !errors.Is(err, errNoGuest) {
		t.Errorf("got %v, want %v", err, errNoGuest)
	}
}

// TestNoIPv6 wants an outbound rule to do with IPv4 in a guest without IPv6.
func TestNoIPv6(t *testing.T) {
	table := NewTable(TableConfig{Carrier: &recorder{}, Sockets: func(ctx context.Context, specs []Socket) ([]*os.File, error) {
		if specs[0].V6Only {
			return nil, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
		}
		return socketsHere(ctx, specs)
	}})
	defer table.Close()
	if _, err := table.Add(t.Context(), Rule{Direction: Outbound}); err != nil {
		t.Fatal(err)
	}
	if got := table.List()[0].Bound; got != 1 {
		t.Errorf("bound: got %d, want 1", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	table, _ := newRecorded(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 20 {
				id, err := table.Add(context.Background(), Rule{Listen: addrPort("127.0.0.1:0")})
				if err != nil {
					t.Error(err)
					return
				}
				table.List()
				if err := table.Remove(id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := table.List(); len(got) != 0 {
		t.Errorf("left: got %v, want none", got)
	}
	if id, err := table.Add(t.Context(), Rule{}); err != nil || id != 401 {
		t.Errorf("next id: got %d, %v, want 401", id, err)
	}
}

func TestLocalRule(t *testing.T) {
	table, r := newRecorded(t)
	id, err := table.Add(t.Context(), Rule{Local: true, Target: port(80)})
	if err != nil {
		t.Fatal(err)
	}
	picked := table.List()[0].Rule.Listen.Port()
	sockets := len(r.publishedNow())
	if picked == 0 || table.List()[0].Bound != 1 || sockets == 0 || sockets > 2 {
		t.Errorf("got port %d, %d sockets, entry %+v", picked, sockets, table.List()[0])
	}
	for _, a := range []string{"127.0.0.1", "::1"}[:sockets] {
		c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(a), picked).String())
		if err != nil {
			t.Errorf("%s: %v", a, err)
			continue
		}
		c.Close()
	}
	_, err = table.Add(t.Context(), Rule{Local: true, Listen: port(picked)})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("twice: got %v, want %v", err, syscall.EADDRINUSE)
	}
	if err := table.Remove(id); err != nil {
		t.Error(err)
	}
}

// TestThousandAtOnce has a thousand clients of a Table add, look and remove, with
// an engine behind it.
func TestThousandAtOnce(t *testing.T) {
	b := newBench(t, flow.Config{})
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			id, err := b.table.Add(context.Background(), Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
			if err != nil {
				t.Error(err)
				return
			}
			if !slices.ContainsFunc(b.table.List(), func(e Entry) bool { return e.ID == id && e.Bound == 1 }) {
				t.Errorf("rule %d is not in the list", id)
			}
			remove := b.table.Remove
			if i%2 == 0 {
				remove = b.table.RemoveKill
			}
			if err := remove(id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.publisher.mu.Lock()
	defer b.publisher.mu.Unlock()
	if got := len(b.table.List()); got != 0 || len(b.publisher.listeners) != 0 {
		t.Errorf("left: got %d rules, %d sockets, want none", got, len(b.publisher.listeners))
	}
}

// TestRemoveUnderLoad removes a rule again and again while clients come. Each
// is served, refused or reset, and none waits.
func TestRemoveUnderLoad(t *testing.T) {
	b := newBench(t, flow.Config{})
	listen := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), freeRange(t, 1))
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var served atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if once(t, listen) {
					served.Add(1)
				}
			}
		})
	}
	for i := range 50 {
		e := b.add(t, Rule{Proto: flow.TCP, Listen: listen, Target: port(80)})
		before := served.Load()
		settle.Until(t, "a client is served", func() bool { return served.Load() > before })
		remove := b.table.Remove
		if i%2 == 0 {
			remove = b.table.RemoveKill
		}
		if err := remove(e.ID); err != nil {
			t.Error(err)
		}
	}
	stop()
	wg.Wait()
	settle.Until(t, "no flows", func() bool { return b.flows.Len(flow.TCP) == 0 })
}

// once is one client, and tells whether it was served.
func once(t *testing.T, to netip.AddrPort) bool {
	c, err := net.DialTimeout("tcp", to.String(), settle.Patience)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(settle.Patience))
		if _, err = c.Write([]byte("question")); err == nil {
			_, err = io.ReadFull(c, make([]byte, 8))
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("neither served nor refused: %v", err)
	}
	return err == nil
}

// TestManyPorts wants 10,000 ports to be one rule that is there in no time, and
// to be given back whole.
func TestManyPorts(t *testing.T) {
	const n = 10000
	before := settle.Descriptors()
	table, r := newRecorded(t)
	rule := Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.3:10000"), Ports: n}
	begun := time.Now()
	id, err := table.Add(t.Context(), rule)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("opened in %v", time.Since(begun))
	if list := table.List(); len(list) != 1 || list[0].Bound != n {
		t.Errorf("list: got %v, want one rule of %d ports", list, n)
	}
	r.mu.Lock()
	if got := len(r.published); got != n || r.calls != 1 {
		t.Errorf("published: got %d sockets in %d calls, want %d in one", got, r.calls, n)
	}
	r.mu.Unlock()
	if err := table.Remove(id); err != nil {
		t.Fatal(err)
	}
	if got := settle.Descriptors(); got > before+10 {
		t.Errorf("descriptors: got %d, want %d as before", got, before)
	}
}

// TestManyPortsServed wants a rule of many ports to cost the engine a descriptor for
// each, and nothing that waits for them one by one.
func TestManyPortsServed(t *testing.T) {
	const n, few = 2000, 10 // of the connection before, which may end late
	b := newBench(t, flow.Config{})
	wantEcho(t, dial(t, b.add(t, Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.1:0")}).at("127.0.0.1"))) // all is there
	settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
	descriptors, goroutines := settle.Descriptors(), runtime.NumGoroutine()
	e := b.add(t, Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.3:10000"), Ports: n})
	if got := settle.Descriptors() - descriptors; got < 2*n-few || got > 2*n+few { // the Table's and the Publisher's
		t.Errorf("descriptors: got %d more, want about %d", got, 2*n)
	}
	if got := runtime.NumGoroutine() - goroutines; got > 0 {
		t.Errorf("goroutines: got %d more, want none", got)
	}
	for _, i := range []uint16{0, n / 2, n - 1} {
		wantEcho(t, dial(t, netip.AddrPortFrom(e.Rule.Listen.Addr(), 10000+i)))
	}
}

// TestMaxSockets wants more sockets than there may be to be refused whole, and
// room to be given back.
func TestMaxSockets(t *testing.T) {
	table := NewTable(TableConfig{Carrier: &recorder{}, Sockets: socketsHere, MaxSockets: 10})
	t.Cleanup(table.Close)
	first := freeRange(t, 20)
	listen := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), first)
	for range 3 {
		id, err := table.Add(t.Context(), Rule{Listen: listen, Ports: 8})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []Rule{
			{Listen: netip.AddrPortFrom(listen.Addr(), first+10), Ports: 3},
			{Local: true, Listen: port(first + 10), Ports: 2},
			{Direction: Outbound, Listen: port(first + 10), Ports: 2},
		} {
			_, err = table.Add(t.Context(), r)
			var bind *BindError
			if !errors.As(err, &bind) || !errors.Is(err, syscall.EMFILE) || bind.Hint() == "" {
				t.Errorf("%v: got %v, want %v and a hint", r, err, syscall.EMFILE)
			}
		}
		if err := table.Remove(id); err != nil {
			t.Fatal(err)
		}
		if _, err := table.Add(t.Context(), Rule{Listen: addrPort("192.0.2.1:80"), Ports: 8}); err == nil {
			t.Error("got no error")
		}
	}
}
