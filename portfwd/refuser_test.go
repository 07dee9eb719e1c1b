package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// wantNoListener wants a client to be refused by the host's kernel.
func wantNoListener(t *testing.T, to netip.AddrPort) {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want %v", err, syscall.ECONNREFUSED)
	}
}

// A refusing is a bench with a Refuser that is stepped by hand.
type refusing struct {
	*bench
	*Refuser
	world *world
}

func newRefusing(t *testing.T) *refusing {
	t.Helper()
	r := &refusing{bench: newBench(t, flow.Config{}), world: &world{}}
	r.Refuser = NewRefuser(r.bench.table, nil)
	r.Refuser.scan = func() ([]Open, error) { return r.world.scan(nil, flow.TCP) }
	r.bench.guest.refuse(syscall.ECONNREFUSED)
	return r
}

// step looks once, at what was refused or at none.
func (r *refusing) step(t *testing.T, id SocketID) {
	t.Helper()
	if err := r.look(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func (r *refusing) state() State { return r.bench.table.List()[0].State }

// TestRefuser has a guest in which nobody listens, and then somebody does.
func TestRefuser(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "127.0.0.1:20999", ""} {
		r := newRefusing(t)
		e := r.add(t, Rule{Proto: flow.TCP, Listen: addrPort(listen), Target: port(80)})
		id, at := SocketID{e.ID, 0}, e.at("127.0.0.1")
		wantRefused(t, at)
		r.step(t, id)
		for range 3 {
			wantNoListener(t, at)
		}
		if got := r.bench.table.List()[0]; got.State != StateRefusing || got.Err == "" {
			t.Errorf("got %+v, want it to refuse", got)
		}
		if l, err := net.Listen("tcp4", at.String()); err == nil {
			l.Close()
			t.Error("somebody else got the port")
		}
		r.world.set(nil, Open{flow.TCP, netip.IPv4Unspecified(), 80})
		r.bench.guest.refuse(nil)
		r.step(t, SocketID{})
		wantEcho(t, dial(t, at))
		if got := r.state(); got != StateOpen {
			t.Errorf("state: got %v, want %v", got, StateOpen)
		}
		r.step(t, id) // a client of before: somebody listens now
		wantEcho(t, dial(t, at))
	}
}

// TestRefuserLeaves wants ports to be left alone that are not for a Refuser to
// pause.
func TestRefuserLeaves(t *testing.T) {
	for _, tt := range []struct {
		name string
		rule Rule
		open []Open
		by   int
		want State
	}{
		{"nobody", Rule{Target: port(80)}, nil, 0, StateRefusing},
		{"somebody else", Rule{Target: port(80)}, []Open{{flow.TCP, guest4, 81}}, 0, StateRefusing},
		{"on loopback", Rule{Target: port(80)}, []Open{{flow.TCP, netip.IPv6Loopback(), 80}}, 0, StateRefusing},
		{"on loopback, where it leads", Rule{Target: port(80), Loopback: true}, []Open{{flow.TCP, netip.IPv6Loopback(), 80}}, 0, StateOpen},
		{"somebody", Rule{Target: port(80)}, []Open{{flow.TCP, guest6, 80}}, 0, StateOpen},
		{"automatic", Rule{Target: port(80)}, nil, 7, StateOpen},
		{"outbound", Rule{Target: port(80), Direction: Outbound}, nil, 0, StateOpen},
		{"UDP", Rule{Target: port(80), Proto: flow.UDP}, nil, 0, StateOpen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRefusing(t)
			tt.rule.Listen = addrPort("127.0.0.1:0")
			id, err := r.bench.table.add(t.Context(), tt.rule, tt.by)
			if err != nil {
				t.Fatal(err)
			}
			r.world.set(nil, tt.open...)
			r.step(t, SocketID{id, 0})
			r.step(t, SocketID{id, 7})
			r.step(t, SocketID{id, -1})
			r.step(t, SocketID{99, 0})
			if got := r.state(); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestRefuserEnds wants no port to be paused for ever: somebody may listen where
// we cannot see it.
func TestRefuserEnds(t *testing.T) {
	r := newRefusing(t)
	e := r.add(t, Rule{Proto: flow.TCP, Local: true, Target: port(80)})
	for i := range 2 {
		r.step(t, SocketID{e.ID, i})
	}
	wantNoListener(t, e.at("127.0.0.1"))
	wantNoListener(t, e.at("::1"))
	for id := range r.paused {
		r.paused[id] = time.Now()
	}
	r.step(t, SocketID{})
	wantRefused(t, e.at("127.0.0.1"))
	wantRefused(t, e.at("::1"))
	if got := r.state(); got != StateOpen {
		t.Errorf("state: got %v, want %v", got, StateOpen)
	}
}

// TestRefuserRestart wants a port that refuses to listen for the next engine, and
// one of a rule that is removed to be free.
func TestRefuserRestart(t *testing.T) {
	r := newRefusing(t)
	e := r.add(t, Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	id := SocketID{e.ID, 0}
	r.step(t, id)
	for range 2 { // again for the same engine
		if err := r.bench.table.Republish(); err != nil {
			t.Fatal(err)
		}
		if got := r.state(); got != StateOpen {
			t.Errorf("state: got %v, want %v", got, StateOpen)
		}
		wantRefused(t, e.at("127.0.0.1"))
	}
	delete(r.paused, id)
	r.step(t, id)
	wantNoListener(t, e.at("127.0.0.1"))
	r.kill()
	r.start(t)
	if err := r.bench.table.Republish(); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, e.at("127.0.0.1"))
	delete(r.paused, id)
	r.step(t, id)
	if err := r.bench.table.Remove(e.ID); err != nil {
		t.Fatal(err)
	}
	if isTaken(flow.TCP, "127.0.0.1", e.Rule.Listen.Port()) {
		t.Error("the port is still taken")
	}
	r.step(t, SocketID{}) // nothing to resume
}

// TestRefuserRun has it listen to the Publisher itself.
func TestRefuserRun(t *testing.T) {
	r := newRefusing(t)
	e := r.add(t, Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.Note(SocketID{e.ID, 0})
	settle.Until(t, "refusing", func() bool { return r.state() == StateRefusing })
	wantNoListener(t, e.at("127.0.0.1"))
	r.bench.guest.refuse(nil)
	r.world.set(nil, Open{flow.TCP, guest4, 80})
	settle.Until(t, "open", func() bool { return r.state() == StateOpen })
	wantEcho(t, dial(t, e.at("127.0.0.1")))
	stop()
	if err := <-ended; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

// TestRefuserAgain wants a Refuser that could not look to begin anew when it runs
// again.
func TestRefuserAgain(t *testing.T) {
	opened := 0
	r := NewRefuser(nil, func(context.Context) (*os.File, error) {
		opened++
		return os.Open(os.DevNull) // which is no NETLINK_SOCK_DIAG
	})
	for want := 1; want <= 2; want++ {
		r.Note(SocketID{})
		if err := r.Run(t.Context()); err == nil || opened != want {
			t.Errorf("run %d: got error %v, opened %d times", want, err, opened)
		}
	}
}

// TestTellRefused wants the Publisher to tell of refused clients, and not of each.
func TestTellRefused(t *testing.T) {
	b := newBench(t, flow.Config{})
	b.guest.refuse(syscall.ECONNREFUSED)
	e := b.add(t, Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	for range 20 {
		wantRefused(t, e.at("127.0.0.1"))
	}
	if n := len(b.refused); n == 0 || n == 20 {
		t.Errorf("told of %d clients, want some", n)
	}
	if got, want := <-b.refused, (SocketID{e.ID, 0}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
