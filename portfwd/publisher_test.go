package portfwd

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// dial connects a client to a published port.
func dial(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(settle.Patience))
	return c
}

// wantEcho sends a question and its end, and wants it back.
func wantEcho(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "question" || err != nil {
		t.Errorf("got %q, %v, want the question", got, err)
	}
}

// wantReset wants a client to be reset.
func wantReset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
	}
}

// wantRefused wants a new client to be reset, perhaps before it knows that it
// was connected.
func wantRefused(t *testing.T, to netip.AddrPort) {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(settle.Patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
	}
}

// serveEcho listens on an address until the test ends, and echoes.
func serveEcho(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// at returns an address with the port of a rule.
func (e Entry) at(address string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), e.Rule.Listen.Port())
}

func TestInbound(t *testing.T) {
	for _, tt := range []struct {
		name, listen, client string
		target               netip.AddrPort
		source, reached      netip.Addr
		port                 uint16 // 0: the one that it listens on
	}{
		{"IPv4", "127.0.0.1:0", "127.0.0.1", netip.AddrPortFrom(guest4, 80), gateway4, guest4, 80},
		{"IPv6", "[::1]:0", "::1", netip.AddrPortFrom(guest6, 80), gateway6, guest6, 80},
		{"any, by IPv4", "", "127.0.0.1", netip.AddrPort{}, gateway4, guest4, 0},
		{"any, by IPv6", "", "::1", netip.AddrPort{}, gateway6, guest6, 0},
		{"IPv6 to an IPv4 target", "", "::1", netip.AddrPortFrom(guest4, 80), gateway4, guest4, 80},
		{"IPv4 to an IPv6 target", "", "127.0.0.1", netip.AddrPortFrom(guest6, 80), gateway6, guest6, 80},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, flow.Config{})
			r := Rule{Proto: flow.TCP, Target: tt.target}
			if tt.listen != "" {
				r.Listen = netip.MustParseAddrPort(tt.listen)
			}
			e := b.add(t, r)
			c := dial(t, e.at(tt.client))
			wantEcho(t, c)
			port := c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
			want := dialed{netip.AddrPortFrom(tt.source, port), netip.AddrPortFrom(tt.reached, tt.port)}
			if tt.port == 0 {
				want.target = netip.AddrPortFrom(tt.reached, e.Rule.Listen.Port())
			}
			if got := <-b.guest.dialed; got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
		})
	}
}

// TestAnotherPort takes the client's port away, and wants the flow to be known by
// the other one.
func TestAnotherPort(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	l := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	l.Port = int(mustPort(t, fd))
	unix.Close(fd)
	b.guest.take(netip.AddrPortFrom(gateway4, uint16(l.Port)))
	c, err := net.DialTCP("tcp", l, net.TCPAddrFromAddrPort(e.at("127.0.0.1")))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(settle.Patience))
	wantLiving(t, c)
	got := <-b.guest.dialed
	wantFlow(t, b, flow.Key{Proto: flow.TCP, Initiator: got.source, Target: got.target})
	wantEcho(t, c)
	if got.source.Addr() != gateway4 || got.source.Port() == uint16(l.Port) || got.source.Port() < dynamicPort {
		t.Errorf("source: got %v, want another port of %v", got.source, gateway4)
	}
}

func mustPort(t *testing.T, fd int) uint16 {
	t.Helper()
	port, err := portOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestRefused(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	for _, tt := range []struct {
		err   error
		count func(s *Stats) uint64
	}{
		{syscall.ECONNREFUSED, func(s *Stats) uint64 { return s.Refused.Load() }},
		{syscall.ETIMEDOUT, func(s *Stats) uint64 { return s.Unreachable.Load() }},
		{syscall.EMFILE, func(s *Stats) uint64 { return s.Exhausted.Load() }},
	} {
		b.guest.refuse(tt.err)
		wantRefused(t, e.at("127.0.0.1"))
		if got := tt.count(&b.publisher.Stats); got != 1 {
			t.Errorf("%v: counted %d times, want 1", tt.err, got)
		}
	}
	b.guest.refuse(nil)
	wantEcho(t, dial(t, e.at("127.0.0.1")))
}

func TestFull(t *testing.T) {
	b := newBench(t, flow.Config{MaxTCP: 1})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	first := dial(t, e.at("127.0.0.1"))
	<-b.guest.dialed
	wantRefused(t, e.at("127.0.0.1"))
	if got := b.publisher.Stats.Full.Load(); got != 1 {
		t.Errorf("full: counted %d times, want 1", got)
	}
	wantEcho(t, first)
}

// TestRemove removes a rule with a connection, which goes on.
func TestRemove(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	c := dial(t, e.at("127.0.0.1"))
	<-b.guest.dialed
	if err := b.table.Remove(e.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := net.Dial("tcp", e.at("127.0.0.1").String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after removal: got %v, want %v", err, syscall.ECONNREFUSED)
	}
	wantEcho(t, c)
	if err := b.table.Remove(e.ID); !errors.Is(err, ErrNoRule) {
		t.Errorf("again: got %v, want %v", err, ErrNoRule)
	}
	again := b.add(t, Rule{Proto: flow.TCP, Listen: e.at("127.0.0.1")})
	if again.ID != e.ID+1 {
		t.Errorf("next id: got %d, want %d", again.ID, e.ID+1)
	}
	wantEcho(t, dial(t, e.at("127.0.0.1")))
}

// TestRemoveKill removes a rule with its connections, and not those of another.
func TestRemoveKill(t *testing.T) {
	b := newBench(t, flow.Config{})
	first := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	second := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	gone, stays := dial(t, first.at("127.0.0.1")), dial(t, second.at("127.0.0.1"))
	<-b.guest.dialed
	<-b.guest.dialed
	if err := b.table.RemoveKill(first.ID); err != nil {
		t.Fatal(err)
	}
	wantReset(t, gone)
	wantEcho(t, stays)
	if err := b.table.RemoveKill(first.ID); !errors.Is(err, ErrNoRule) {
		t.Errorf("again: got %v, want %v", err, ErrNoRule)
	}
}

// TestRestart ends the Publisher and gives its sockets to another one; what
// came in between waits.
func TestRestart(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	old := dial(t, e.at("127.0.0.1"))
	<-b.guest.dialed
	b.kill()
	wantReset(t, old)
	between := dial(t, e.at("127.0.0.1"))
	b.start(t)
	for range 2 { // twice does no harm
		if err := b.table.Republish(); err != nil {
			t.Fatal(err)
		}
	}
	wantEcho(t, between)
	wantEcho(t, dial(t, e.at("127.0.0.1")))
}

// TestManyWaiting has more clients wait for a Publisher than one turn takes, and wants
// it to serve all of them, though nobody comes after them.
func TestManyWaiting(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	b.kill()
	const many = 2*acceptTurn + 1
	for range many {
		dial(t, e.at("127.0.0.1"))
	}
	b.start(t)
	if err := b.table.Republish(); err != nil {
		t.Fatal(err)
	}
	for range many {
		<-b.guest.dialed
	}
}

// TestShutDown wants a listener that somebody shut down to be dropped.
func TestShutDown(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	raw, err := b.table.all()[0].sockets[0].file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	if err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "the listener is gone", func() bool {
		b.publisher.mu.Lock()
		defer b.publisher.mu.Unlock()
		return b.publisher.listeners[key{e.ID, 0}] == nil
	})
}

// TestExhausted takes all descriptors away and wants clients to be served when
// there are some again.
func TestExhausted(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	none := was
	none.Cur = 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	restore := func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &was) }
	defer restore()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(e.Rule.Listen.Port()), Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "no descriptor left", func() bool { return b.publisher.Stats.Exhausted.Load() > 0 })
	restore()
	<-b.guest.dialed
}

// TestTurnedAway wants clients to be reset while there is no descriptor for
// them, connections to go on, and nobody to spin.
func TestTurnedAway(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")})
	old := dial(t, e.at("127.0.0.1"))
	<-b.guest.dialed
	if _, err := old.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(old, make([]byte, 1)); err != nil { // it is connected through
		t.Fatal(err)
	}
	const clients = 20
	var fds []int
	for range clients {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		patience := unix.NsecToTimeval(int64(settle.Patience))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	low := was
	low.Cur = 500
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	var filling []int
	for {
		fd, err := unix.Dup(fds[0])
		if err != nil {
			break
		}
		filling = append(filling, fd)
	}
	for _, fd := range fds {
		err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(e.Rule.Listen.Port()), Addr: [4]byte{127, 0, 0, 1}})
		if err == nil {
			_, err = unix.Read(fd, make([]byte, 1))
		}
		if err != syscall.ECONNRESET {
			t.Errorf("without a descriptor: got %v, want %v", err, syscall.ECONNRESET)
		}
	}
	wantEcho(t, old)
	if got := b.publisher.Stats.Exhausted.Load(); got < clients || got > 5*clients {
		t.Errorf("exhausted: got %d times, want about %d", got, clients)
	}
	for _, fd := range append(filling, fds...) {
		unix.Close(fd)
	}
	wantEcho(t, dial(t, e.at("127.0.0.1")))
}

func TestLoopback(t *testing.T) {
	v4, v6 := serveEcho(t, "127.0.0.1:0"), serveEcho(t, "[::1]:0")
	for _, tt := range []struct {
		name, listen, client string
		direction            Direction
		server               netip.AddrPort
	}{
		{"inbound IPv4", "127.0.0.2:0", "127.0.0.2", Inbound, v4},
		{"inbound IPv6", "[::1]:0", "::1", Inbound, v6},
		{"inbound IPv6 to IPv4", "[::1]:0", "::1", Inbound, v4},
		{"inbound IPv4 to IPv6", "127.0.0.2:0", "127.0.0.2", Inbound, v6},
		{"outbound IPv4", "127.0.0.2:0", "127.0.0.2", Outbound, v4},
		{"outbound IPv6", "[::1]:0", "::1", Outbound, v6},
		{"outbound any, by IPv4", "", "127.0.0.1", Outbound, v4},
		{"outbound any, by IPv6", "", "::1", Outbound, v4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, flow.Config{})
			r := Rule{Direction: tt.direction, Proto: flow.TCP, Loopback: true, Target: netip.AddrPortFrom(netip.Addr{}, tt.server.Port())}
			if tt.listen != "" {
				r.Listen = netip.MustParseAddrPort(tt.listen)
			}
			e := b.add(t, r)
			wantEcho(t, dial(t, e.at(tt.client)))
			settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
			if got := b.publisher.Stats.Connected.Load(); got != 1 {
				t.Errorf("connected: got %d, want 1", got)
			}
		})
	}
}

func TestLoopbackRefused(t *testing.T) {
	b := newBench(t, flow.Config{})
	e := b.add(t, Rule{Proto: flow.TCP, Loopback: true, Listen: netip.MustParseAddrPort("127.0.0.2:0")})
	wantRefused(t, e.at("127.0.0.2")) // nobody listens at 127.0.0.1
	if got := b.publisher.Stats.Refused.Load(); got != 1 {
		t.Errorf("refused: got %d, want 1", got)
	}
}
