package nat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/stacktest"
	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// A tcpPath is the whole way of a connection but the namespaces: a guest, the
// gateway's stack, a TCP, and the host's loopback behind the gateway's address.
type tcpPath struct {
	guest *stacktest.Guest
	tcp   *TCP
	flows *flow.Table
	end   context.CancelFunc // of tcp only
	ended chan struct{}      // closed when tcp.Run has returned
}

// newTCPPath starts all of it, until the test ends.
func newTCPPath(t *testing.T, limits flow.Config, changes ...func(*TCPConfig)) *tcpPath {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{Header: true, Checksum: true, TSO: true, USO: true})
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := stack.New(stack.Config{
		Device: a, MTU: 1500, MAC: net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}, Addresses: []netip.Addr{gateway4, gateway6},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	p := &tcpPath{flows: flow.New(limits), end: end, ended: make(chan struct{})}
	mover, err := relay.NewMover(relay.MoverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := TCPConfig{Config: testConfig(t, gateway), Mover: mover}
	cfg.Flows = p.flows
	for _, change := range changes {
		change(&cfg)
	}
	if p.tcp, err = NewTCP(cfg); err != nil {
		t.Fatal(err)
	}
	gateway.HandleTCP(p.tcp.Handle)
	start(t, gateway.Run)
	start(t, func(test context.Context) error {
		defer close(p.ended)
		context.AfterFunc(test, end)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			if err := mover.Run(ctx); err != nil {
				t.Errorf("run the mover: %v", err)
			}
		})
		return p.tcp.Run(ctx)
	})
	if p.guest, err = stacktest.Start(b, guest4, guest6); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.guest.Close)
	return p
}

// dial connects from the guest, or fails the test.
func (p *tcpPath) dial(t *testing.T, to netip.AddrPort) stacktest.Conn {
	t.Helper()
	c, err := p.tryDial(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (p *tcpPath) tryDial(to netip.AddrPort) (stacktest.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
	defer cancel()
	c, err := p.guest.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(3 * settle.Patience))
	return c, nil
}

// serveTCP calls handle for each connection to the host's loopback, until the
// test ends, and returns the port.
func serveTCP(t *testing.T, address string, handle func(*net.TCPConn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// echo sends back what comes, then its FIN. It hides what would let io.Copy
// splice: the pipes stay open until the garbage is collected.
func echo(c *net.TCPConn) { _, _ = io.Copy(struct{ io.Writer }{c}, c) }

// freeTCPPort returns a port of the loopback where nobody listens.
func freeTCPPort(t *testing.T, address string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// TestTCPEcho sends 8 MiB through all layers and back, in both families, ends
// its half, and reads the rest.
func TestTCPEcho(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			p := newTCPPath(t, flow.Config{})
			port := serveTCP(t, family.loopback, echo)
			c := p.dial(t, netip.AddrPortFrom(family.gateway, port))
			sent := bytes.Repeat([]byte("0123456789abcdef!"), 8<<20/17)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := c.Write(sent); err != nil {
					t.Errorf("write: %v", err)
				}
				c.CloseWrite()
			})
			got, err := io.ReadAll(c)
			wg.Wait()
			if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
				t.Errorf("got %d bytes and error %v, want the %d sent", len(got), err, len(sent))
			}
			settle.Until(t, "the flow is gone", func() bool { return p.flows.Len(flow.TCP) == 0 })
			if n := p.tcp.Stats.Connected.Load(); n != 1 {
				t.Errorf("connected: got %d, want 1", n)
			}
		})
	}
}

// TestTCPRefused wants a port where nobody listens told from one that a rule
// forbids.
func TestTCPRefused(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			p := newTCPPath(t, flow.Config{})
			c, err := p.tryDial(netip.AddrPortFrom(family.gateway, freeTCPPort(t, family.loopback)))
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("got %v and error %v, want %v", c, err, syscall.ECONNREFUSED)
			}
			if n := p.tcp.Stats.Refused.Load(); n == 0 { // a late answer has the guest ask again
				t.Errorf("refused: got %d, want 1", n)
			}
			settle.Until(t, "no flow is left", func() bool { return p.flows.Len(flow.TCP) == 0 })
		})
	}
}

// TestTCPDeniedOtherwise wants what slirp4netns answers.
func TestTCPDeniedOtherwise(t *testing.T) {
	p := newTCPPath(t, flow.Config{}, func(c *TCPConfig) { c.Denied = NetUnreachable })
	for _, to := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80"} {
		if _, err := p.tryDial(netip.MustParseAddrPort(to)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%s: got error %v, want %v", to, err, syscall.ENETUNREACH)
		}
	}
}

// TestTCPDenied wants a rule's "no" as an ICMP error, and no flow.
func TestTCPDenied(t *testing.T) {
	p := newTCPPath(t, flow.Config{})
	c, err := p.tryDial(netip.MustParseAddrPort("169.254.169.254:80"))
	if !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("got %v and error %v, want %v", c, err, syscall.EHOSTUNREACH)
	}
	// The guest's stack here knows no ICMPv6 "administratively prohibited" and
	// would try for minutes.
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := p.guest.Dial(ctx, netip.MustParseAddrPort("[fd00:ec2::254]:80")); err == nil {
			c.Close()
			t.Error("IPv6: got a connection")
		}
	})
	settle.Until(t, "both families are denied", func() bool { return p.tcp.Stats.Denied.Load() >= 2 })
	cancel()
	wg.Wait()
	if n := p.flows.Stats(flow.TCP).Opened; n != 0 {
		t.Errorf("flows: got %d opened, want 0", n)
	}
}

// TestUnreachableIsLimited wants a flood of what is refused to cost few answers.
func TestUnreachableIsLimited(t *testing.T) {
	guest := newFakeGuest()
	c := Config{Guest: guest, Rules: testRules(t), Flows: flow.New(flow.Config{}), Gateway4: gateway4, ErrorsPerSecond: 1}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	header := make([]byte, ipv4HeaderLen+8)
	header[0] = 0x45
	answered := 0
	for range 2 * errorBurst {
		if c.Unreachable(AdminProhibited, header) {
			answered++
		}
	}
	if answered < errorBurst || answered == 2*errorBurst {
		t.Errorf("got %d answers, want %d", answered, errorBurst)
	}
}

// TestTCPFlowLimit wants a full table to refuse, and to have room again.
func TestTCPFlowLimit(t *testing.T) {
	p := newTCPPath(t, flow.Config{MaxTCP: 2})
	to := netip.AddrPortFrom(gateway4, serveTCP(t, "127.0.0.1:0", echo))
	first, second := p.dial(t, to), p.dial(t, to)
	if _, err := p.tryDial(to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("third: got %v, want %v", err, syscall.ECONNREFUSED)
	}
	if n := p.tcp.Stats.Exhausted.Load(); n == 0 {
		t.Errorf("exhausted: got %d, want 1", n)
	}
	wantEcho(t, second)
	first.Close()
	settle.Until(t, "a flow is gone", func() bool { return p.flows.Len(flow.TCP) == 1 })
	wantEcho(t, p.dial(t, to))
}

// wantEcho sends a word and wants it back.
func wantEcho(t *testing.T, c net.Conn) {
	t.Helper()
	b := make([]byte, 4)
	if _, err := c.Write([]byte("echo")); err != nil {
		t.Errorf("write: %v", err)
		return
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "echo" {
		t.Errorf("got %q and error %v, want echo", b, err)
	}
}

// TestTCPHostReset wants the host's RST at the guest.
func TestTCPHostReset(t *testing.T) {
	p := newTCPPath(t, flow.Config{})
	port := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
	})
	c := p.dial(t, netip.AddrPortFrom(gateway4, port))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read: got %v, want a reset", err)
	}
	settle.Until(t, "the flow is gone", func() bool { return p.flows.Len(flow.TCP) == 0 })
}

// TestTCPConnectClose has 32 clients connect and close, fifty times each: what
// broke every earlier attempt at this on the same stack.
func TestTCPConnectClose(t *testing.T) {
	const clients, rounds = 32, 50
	p := newTCPPath(t, flow.Config{})
	to := netip.AddrPortFrom(gateway4, serveTCP(t, "127.0.0.1:0", echo))
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range rounds {
				c, err := p.tryDial(to)
				if err != nil {
					t.Error(err)
					return
				}
				c.CloseWrite()
				if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
					t.Errorf("got %q and error %v, want the end", b, err)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	settle.Until(t, "all flows are gone", func() bool { return p.flows.Len(flow.TCP) == 0 })
	if n := p.tcp.Stats.Connected.Load(); n < clients*rounds {
		t.Errorf("connected: got %d, want %d", n, clients*rounds)
	}
}

// TestTCPThousand has a thousand connections at once, all of them alive.
func TestTCPThousand(t *testing.T) {
	const conns = 1000
	p := newTCPPath(t, flow.Config{})
	to := netip.AddrPortFrom(gateway4, serveTCP(t, "127.0.0.1:0", echo))
	list := make([]stacktest.Conn, conns)
	inParallel(50, conns, func(i int) {
		var err error
		if list[i], err = p.tryDial(to); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		return
	}
	if n := p.flows.Len(flow.TCP); n != conns {
		t.Errorf("flows: got %d, want %d", n, conns)
	}
	inParallel(50, conns, func(i int) {
		wantEcho(t, list[i])
		list[i].Close()
	})
	settle.Until(t, "all flows are gone", func() bool { return p.flows.Len(flow.TCP) == 0 })
}

// inParallel calls f with 0 to n-1 on so many goroutines.
func inParallel(goroutines, n int, f func(i int)) {
	var wg sync.WaitGroup
	var last atomic.Int64
	for range goroutines {
		wg.Go(func() {
			for i := last.Add(1) - 1; i < int64(n); i = last.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	wg.Wait()
}

// TestTCPRunEnds ends the TCP alone, while the stack lives: connections in all
// states are reset at both ends, and nothing is left (TestMain).
func TestTCPRunEnds(t *testing.T) {
	p := newTCPPath(t, flow.Config{})
	atHost := make(chan error, 16)
	half := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		c.CloseWrite() // so that nobody waits for the host's socket
		_, err := io.Copy(io.Discard, c)
		atHost <- err
	})
	whole := serveTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		_, err := io.Copy(struct{ io.Writer }{c}, c)
		atHost <- err
	})
	open := p.dial(t, netip.AddrPortFrom(gateway4, whole))
	wantEcho(t, open)
	halfOpen := p.dial(t, netip.AddrPortFrom(gateway4, half))
	if _, err := halfOpen.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("half: got %v, want %v", err, io.EOF)
	}
	p.end()
	select {
	case <-p.ended:
	case <-time.After(settle.Patience):
		t.Fatal("run did not end")
	}
	for range 2 {
		if err := next(t, atHost); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("host: got %v, want %v", err, syscall.ECONNRESET)
		}
	}
	if _, err := open.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("guest: got %v, want a reset", err)
	}
	if n := p.flows.Len(flow.TCP); n != 0 {
		t.Errorf("flows: got %d, want 0", n)
	}
}

// TestTCPDescriptors runs out of descriptors in a process of its own: what is
// too much is refused, what was there goes on, and there is room again.
func TestTCPDescriptors(t *testing.T) {
	const env = "TAPROOT_NAT_DESCRIPTORS"
	if os.Getenv(env) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
		cmd.Env = append(os.Environ(), env+"=1", "GORACE=atexit_sleep_ms=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("with few descriptors: %v\n%s", err, out)
		}
		return
	}
	p := newTCPPath(t, flow.Config{})
	to := netip.AddrPortFrom(gateway4, serveTCP(t, "127.0.0.1:0", echo))
	first := p.dial(t, to)
	wantEcho(t, first)
	release := exhaustDescriptors(t)
	for range 5 {
		if c, err := p.tryDial(to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("without descriptors: got %v and error %v, want %v", c, err, syscall.ECONNREFUSED)
		}
		wantEcho(t, first)
	}
	if n := p.tcp.Stats.Exhausted.Load(); n < 5 {
		t.Errorf("exhausted: got %d, want 5", n)
	}
	release()
	wantEcho(t, p.dial(t, to))
}

// exhaustDescriptors leaves this process without a free descriptor until
// release is called.
func exhaustDescriptors(t *testing.T) (release func()) {
	t.Helper()
	var usual unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(settle.Descriptors() + 8), Max: usual.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	return func() {
		for _, f := range files {
			f.Close()
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
			t.Error(err)
		}
	}
}

// TestTCPDialsAreEvicted wants room for the next dial, by giving one up.
func TestTCPDialsAreEvicted(t *testing.T) {
	const most = 10
	tcp := &TCP{ctx: t.Context(), maxDials: most, dials: make(map[*dialing]struct{}), evictions: newEvictions()}
	given := 0
	var waits []context.Context
	for range most + 1 {
		ctx, done := tcp.wait()
		defer done()
		waits = append(waits, ctx)
	}
	for _, ctx := range waits {
		if ctx.Err() != nil {
			given++
		}
	}
	if got := tcp.Stats.Evicted.Load(); given != 1 || got != 1 {
		t.Errorf("got %d given up and %d counted, want 1", given, got)
	}
}
