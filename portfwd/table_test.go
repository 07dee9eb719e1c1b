package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"taproot/stack/flow"
)

// A recorder is a Carrier that notes what it is given.
type recorder struct {
	mu sync.Mutex
	// +checklocks:mu
	published []Listener
	// +checklocks:mu
	unpublished []int
	// +checklocks:mu
	err error
}

func (r *recorder) Publish(l Listener, _ *os.File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published = append(r.published, l)
	return r.err
}

func (r *recorder) Unpublish(id int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unpublished = append(r.unpublished, id)
	return nil
}

// publishedNow returns a copy of what was published.
func (r *recorder) publishedNow() []Listener {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.published)
}

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

func TestBindError(t *testing.T) {
	for _, tt := range []struct {
		err        *BindError
		text, hint string
	}{
		{
			&BindError{Proto: flow.TCP, Port: 80, Err: os.NewSyscallError("bind", syscall.EACCES)},
			"publish :80/tcp: bind: permission denied",
			"sysctl net.ipv4.ip_unprivileged_port_start=80",
		},
		{
			&BindError{Proto: flow.UDP, Port: 8080, Addr: guest4, Err: os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)},
			"publish 10.0.2.100:8080/udp: bind: cannot assign requested address", "",
		},
	} {
		if got := tt.err.Error(); got != tt.text {
			t.Errorf("got %v, want %v", got, tt.text)
		}
		if got := tt.err.Hint(); got != tt.hint {
			t.Errorf("hint: got %q, want %q", got, tt.hint)
		}
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
