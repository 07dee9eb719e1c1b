package shortcut

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/shortcut/mark"
	"taproot/tap"
)

// A dialWorld has a Dialer whose guest is the test's namespace: its sockets are
// ordinary ones, and connect by lo. What it believes to be packet sockets get
// what the test writes.
type dialWorld struct {
	*world
	family family
	dialer *Dialer
	copier int // the other end of the family's packet socket
	needed chan int
	broken atomic.Int32
}

// newDialWorld returns a Dialer that does not run.
func newDialWorld(t *testing.T, f family) *dialWorld {
	t.Helper()
	g := &dialWorld{world: newWorld(t), family: f, needed: make(chan int, 16)}
	var clients []*os.File
	for _, other := range families() {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[1]) })
		clients = append(clients, os.NewFile(uintptr(fds[0]), "packet socket"))
		if other == f {
			g.copier = fds[1]
		}
	}
	var err error
	g.dialer, err = NewDialer(DialerConfig{
		Stack: g.shortcut.cfg.Stack, Clients: clients,
		Need:   func(_, n int) { g.needed <- n },
		Broken: func() { g.broken.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	g.inbound.Store(g.dialer)
	c := g.newClient(t, f)
	c.stray(t, 0, 1) // answered, and the guest is met
	c.next(t)
	return g
}

// finish does what the end of Run does, for a Dialer that did not run.
func (g *dialWorld) finish() {
	g.dialer.poller.Close()
	for _, p := range g.dialer.abandon() {
		p.end(-1, syscall.ECANCELED)
	}
	g.dialer.close()
}

// supply gives the Dialer n sockets.
func (g *dialWorld) supply(t *testing.T, n int) {
	t.Helper()
	var fds []int
	for range n {
		fd, err := unix.Socket(socket.Family(g.family.guest), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	g.dialer.Supply(socket.Family(g.family.guest), fds, nil)
}

// A verdict is what Dial has told.
type verdict struct {
	fd  int
	err error
}

// dial begins to connect.
func (g *dialWorld) dial(source, target netip.AddrPort) <-chan verdict {
	c := make(chan verdict, 2) // one is an error more
	g.dialer.Dial(source, target, func(fd int, err error) { c <- verdict{fd, err} })
	return c
}

// wantError wants a dial to have failed, without a socket.
func wantError(t *testing.T, c <-chan verdict, want error) {
	t.Helper()
	v := receive(t, c, "an answer")
	if !errors.Is(v.err, want) || v.fd >= 0 {
		t.Errorf("got descriptor %d and error %v, want none and %v", v.fd, v.err, want)
	}
}

// wantConnected wants a dial to have succeeded. The socket is closed when the test ends.
func wantConnected(t *testing.T, c <-chan verdict) int {
	t.Helper()
	v := receive(t, c, "an answer")
	if v.err != nil {
		t.Fatalf("got %v, want a connection", v.err)
	}
	t.Cleanup(func() { unix.Close(v.fd) })
	return v.fd
}

// wantPending wants a dial to have no answer yet.
func wantPending(t *testing.T, c <-chan verdict) {
	t.Helper()
	select {
	case v := <-c:
		t.Fatalf("got descriptor %d and error %v, want no answer yet", v.fd, v.err)
	default:
	}
}

// server returns where somebody listens.
func (g *dialWorld) server(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(g.family.target, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// silent returns where somebody listens whose queue is full: nobody answers a SYN.
func (g *dialWorld) silent(t *testing.T) netip.AddrPort {
	t.Helper()
	at := socket.NewAddress(netip.AddrPortFrom(g.family.target, 0))
	listener := g.socket(t)
	if err := at.Bind(listener); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listener, 0); err != nil {
		t.Fatal(err)
	}
	where, err := socket.LocalAddress(listener)
	if err != nil {
		t.Fatal(err)
	}
	to := socket.NewAddress(where)
	if err := socket.Start(g.socket(t), &to); err != nil {
		t.Fatalf("fill the queue: %v", err)
	}
	return where
}

// socket returns a TCP socket until the test ends.
func (g *dialWorld) socket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(socket.Family(g.family.guest), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// source returns a client's address that nobody else uses.
func (g *dialWorld) source(t *testing.T) netip.AddrPort {
	t.Helper()
	return g.newClient(t, g.family).from
}

// copy gives the Dialer a SYN as its packet socket would.
func (g *dialWorld) copy(t *testing.T, from, to netip.AddrPort, dscp uint8) {
	t.Helper()
	b := append(make([]byte, tap.HeaderLen), segment(from, to, dscp, 64, flagSYN, 1, 0)...)
	if _, err := unix.Write(g.copier, b); err != nil {
		t.Fatal(err)
	}
}

// withDialer runs a test in both families, with a Dialer that does not run.
func withDialer(t *testing.T, test func(*testing.T, *dialWorld)) {
	inFamilies(t, func(t *testing.T, f family) {
		g := newDialWorld(t, f)
		defer g.finish()
		test(t, g)
	})
}

// TestDial connects, is refused, and meets a connection with the same addresses.
func TestDial(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		source, target := g.source(t), g.server(t)
		g.supply(t, 3)
		fd := wantConnected(t, g.dial(source, target))
		if got, err := socket.LocalAddress(fd); err != nil || got != source {
			t.Errorf("the guest sees %v (%v), want %v", got, err, source)
		}
		wantError(t, g.dial(source, target), syscall.EADDRINUSE)
		wantError(t, g.dial(g.source(t), g.source(t)), syscall.ECONNREFUSED)
		g.dialer.mu.Lock()
		known := len(g.dialer.keys)
		g.dialer.mu.Unlock()
		s := &g.dialer.Stats
		if s.Connected.Load() != 1 || s.Refused.Load() != 1 || known != 0 {
			t.Errorf("got %d connected, %d refused, %d known, want 1, 1 and 0", s.Connected.Load(), s.Refused.Load(), known)
		}
	})
}

// TestDialUnsuitable leaves what only the stack can do to it, without using a socket.
func TestDialUnsuitable(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		source, target := g.source(t), g.server(t)
		g.supply(t, 1)
		local := netip.AddrPortFrom(netip.MustParseAddr("fe80::1"), 80)
		other := netip.AddrPortFrom(netip.MustParseAddr("169.254.0.1"), 80)
		for _, tt := range []struct{ source, target netip.AddrPort }{
			{netip.AddrPortFrom(source.Addr(), 0), target},
			{local, local}, {other, other}, {local, other}, {source, local}, {source, other},
		} {
			wantError(t, g.dial(tt.source, tt.target), ErrByStack)
		}
		g.dialer.SetEnabled(false)
		wantError(t, g.dial(source, target), ErrByStack)
		g.dialer.SetEnabled(true)
		wantConnected(t, g.dial(source, target))
	})
}

// TestDialSourceTaken gives a socket back that could not be bound, for the next.
func TestDialSourceTaken(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		target := g.server(t)
		g.supply(t, 1)
		wantError(t, g.dial(g.server(t), target), ErrByStack)
		wantConnected(t, g.dial(g.source(t), target))
	})
}

// TestDialWaits has dials wait for sockets, which are asked for once at a time.
func TestDialWaits(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		target := g.server(t)
		lost := errors.New("lost")
		family := socket.Family(g.family.guest)
		wantNeed := func(n int) {
			t.Helper()
			if got := receive(t, g.needed, "a wish for sockets"); got != n || len(g.needed) != 0 {
				t.Fatalf("asked for %d and %d times more, want %d once", got, len(g.needed), n)
			}
		}
		first, second := g.dial(g.source(t), target), g.dial(g.source(t), target)
		wantPending(t, first)
		wantNeed(many)
		g.dialer.Supply(family, nil, lost)
		wantError(t, first, lost)
		wantError(t, second, lost)

		first, second = g.dial(g.source(t), target), g.dial(g.source(t), target)
		wantNeed(many)
		g.supply(t, 1)
		wantConnected(t, first)
		wantPending(t, second)
		wantNeed(many)
		g.dialer.Supply(family, nil, nil) // they got lost on the way
		wantError(t, second, syscall.EMFILE)
	})
}

// TestDialUnheard gives up on sockets that never come, and asks again.
func TestDialUnheard(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		target := g.server(t)
		for range 2 {
			c := g.dial(g.source(t), target)
			receive(t, g.needed, "a wish for sockets")
			if more := g.dialer.expire(time.Now().Add(-time.Hour)); !more {
				t.Error("nobody waits")
			}
			wantPending(t, c)
			if more := g.dialer.expire(time.Now()); more {
				t.Error("somebody waits still")
			}
			wantError(t, c, ErrByStack)
		}
	})
}

// TestDialSilent puts the SYN of a guest that does not answer into the device, each
// time that it is sent, until it is given up, and nobody else's.
func TestDialSilent(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		source, target := g.source(t), g.silent(t)
		g.supply(t, 1)
		c := g.dial(source, target)
		wantPending(t, c)
		for range 2 {
			g.copy(t, source, g.source(t), mark.Entering)
			g.copy(t, source, target, mark.Local)
			g.copy(t, source, target, mark.Entering)
			g.dialer.pump(index(g.family.guest))
			got := g.next(t)
			if dscpOfFrame(got) != mark.Entering {
				t.Errorf("got %x, want the code point %d", got, mark.Entering)
			}
		}
		g.none(t)
		g.dialer.expire(time.Now())
		wantError(t, c, syscall.ETIMEDOUT)
		g.copy(t, source, target, mark.Entering)
		g.dialer.pump(index(g.family.guest))
		g.none(t)
		s := &g.dialer.Stats
		if s.Entered.Load() != 2 || s.Strange.Load() != 5 || s.Silent.Load() != 1 {
			t.Errorf("got %d entered, %d strange, %d silent, want 2, 5 and 1", s.Entered.Load(), s.Strange.Load(), s.Silent.Load())
		}
	})
}

// TestDialFlooded looks at no more copies in a turn than maxPump, whatever the guest
// sends, and at the rest later.
func TestDialFlooded(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		const room = 1 << 20 // of which the kernel gives what it may, a fifth of it by default
		if err := unix.SetsockoptInt(g.copier, unix.SOL_SOCKET, unix.SO_SNDBUF, room); err != nil {
			t.Fatal(err)
		}
		source, sent := g.source(t), 0
		b := append(make([]byte, tap.HeaderLen), segment(source, source, mark.Entering, 64, flagSYN, 1, 0)...)
		for ; sent < maxPump+maxPump/4; sent++ {
			if _, err := unix.Write(g.copier, b[:1+sent%len(b)]); err != nil {
				t.Fatalf("copy %d: %v", sent, err)
			}
		}
		for _, want := range []int{maxPump, maxPump / 4, 0} {
			before := g.dialer.Stats.Strange.Load()
			g.dialer.pump(index(g.family.guest))
			if got := g.dialer.Stats.Strange.Load() - before; got != uint64(want) {
				t.Errorf("looked at %d, want %d", got, want)
			}
		}
	})
}

// TestDialStray ends a dial whose answer came as a frame, and says so once. Strays of
// others do nothing.
func TestDialStray(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		source, target := g.source(t), g.silent(t)
		g.supply(t, 2)
		c := g.dial(source, target)
		for _, seg := range []stack.Stray{
			{Source: source, Destination: target, SYNACK: true},
			{Source: target, Destination: netip.AddrPortFrom(source.Addr(), source.Port()^1), SYNACK: true},
			{Source: target, Destination: source}, // of a connection from before
			{},
		} {
			g.dialer.HandleStray(&seg)
		}
		wantPending(t, c)
		if n := g.broken.Load(); n != 0 {
			t.Errorf("broken %d times by others, want never", n)
		}
		for range 3 {
			if g.dialer.HandleStray(&stack.Stray{Source: target, Destination: source, SYNACK: true}) {
				t.Error("an answer to one who dials: kept from the stack")
			}
		}
		wantError(t, c, syscall.ETIMEDOUT)
		if n := g.broken.Load(); n != 1 {
			t.Errorf("broken %d times, want once", n)
		}
		wantError(t, g.dial(source, target), ErrByStack)
		g.dialer.SetEnabled(true)
		wantPending(t, g.dial(source, target))
	})
}

// TestDoubt disables a Dialer that is doubted several times in a row, and it heals.
func TestDoubt(t *testing.T) {
	withDialer(t, func(t *testing.T, g *dialWorld) {
		target := g.server(t)
		g.supply(t, 4)
		for round := range 2 {
			for range tolerance - 1 {
				g.dialer.Doubt()
			}
			wantConnected(t, g.dial(g.source(t), target)) // these were not in a row
			for range tolerance - 1 {
				g.dialer.Doubt()
			}
			if n := g.broken.Load(); n != int32(round) {
				t.Fatalf("broken %d times, want %d", n, round)
			}
			g.dialer.Doubt()
			g.dialer.Doubt()
			if n := g.broken.Load(); n != int32(round)+1 {
				t.Fatalf("broken %d times, want %d", n, round+1)
			}
			wantError(t, g.dial(g.source(t), target), ErrByStack)
			g.dialer.SetEnabled(true)
		}
	})
}

// TestDialerRun serves what does not happen at once, and ends the rest at its end.
func TestDialerRun(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		g := newDialWorld(t, f)
		target := g.silent(t)
		var silent, without <-chan verdict
		t.Run("while it runs", func(t *testing.T) {
			start(t, g.dialer.Run)
			g.supply(t, 2)
			refused := g.dial(g.source(t), target)
			wantPending(t, refused)
			g.dialer.HandleStray(&stack.Stray{}) // nobody's
			source := g.source(t)
			silent = g.dial(source, target)
			g.copy(t, source, target, mark.Entering)
			if got := g.next(t); dscpOfFrame(got) != mark.Entering {
				t.Errorf("got %x, want the code point %d", got, mark.Entering)
			}
			wantError(t, refused, syscall.ETIMEDOUT)
			silent = g.dial(source, target)
			without = g.dial(g.source(t), target)
		})
		for _, c := range []<-chan verdict{silent, without} {
			if v := receive(t, c, "an answer"); v.err == nil || v.fd >= 0 {
				t.Errorf("got descriptor %d and error %v, want none and an error", v.fd, v.err)
			}
		}
		wantError(t, g.dial(g.source(t), target), syscall.ECANCELED)
		g.supply(t, 1) // closed: TestMain sees what is left
		g.dialer.HandleStray(&stack.Stray{Source: target, Destination: target, SYNACK: true})
	})
}

// TestNewDialer wants what a Dialer needs, and closes the sockets in any case.
func TestNewDialer(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newWorld(t)
	need := func(int, int) {}
	clients := func(n int) (files []*os.File) {
		for range n {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, os.NewFile(uintptr(fd), "packet socket"))
		}
		return files
	}
	for name, cfg := range map[string]DialerConfig{
		"no stack": {Need: need, Clients: clients(1)},
		"no need":  {Stack: g.shortcut.cfg.Stack, Clients: clients(2)},
		"none":     {Stack: g.shortcut.cfg.Stack, Need: need},
		"three":    {Stack: g.shortcut.cfg.Stack, Need: need, Clients: clients(3)},
	} {
		if _, err := NewDialer(cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
		for _, f := range cfg.Clients {
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: a socket was left open", name)
			}
		}
	}
}
