package shortcut

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/tap"
	"taproot/test/settle"
	"taproot/userns"
)

// guestEnv is set in the process that holds the guest's network namespace.
const guestEnv = "TAPROOT_SHORTCUT_GUEST"

// beGuest waits until nobody needs the namespace any more.
func beGuest() {
	if os.Getenv(guestEnv) != "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
}

// A guest is a namespace whose TCP is diverted, and all that the gateway has
// for it. Its host is the namespace of the test, with the families' addresses.
type guest struct {
	ns       *userns.Namespace
	divert   *userns.Diversion
	shortcut *Shortcut
	tcp      *nat.TCP
	flows    *flow.Table
	before   counts // of this test
}

// device makes the guest's TAP device.
type device struct{ features *tap.Features }

func (device) Path() string { return tap.Path }

func (d device) Attach(f *os.File, name string) (err error) {
	*d.features, err = tap.Attach(f, name, tap.OffloadOn)
	return err
}

func (device) Refused(err error) error { return err }

// The guest's network.
var (
	own      = []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("fd00::64/64")}
	gateways = []netip.Addr{netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fd00::2")}
)

// newGuest makes a guest, until the test ends.
func newGuest(t testing.TB) *guest {
	t.Helper()
	g := &guest{flows: flow.New(flow.Config{})}
	var pid int
	g.ns, pid = holdNamespace(t)
	var features tap.Features
	file, _, err := g.ns.Attach(context.Background(), userns.Setup{
		Interface: "tap0", MTU: 1500, Addresses: own, Device: device{&features},
		Routes: []userns.Route{
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gateways[0]},
			{Destination: netip.MustParsePrefix("::/0"), Gateway: gateways[1]},
		},
	})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skipf("make a device: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d, err := tap.New(pollable(t, file), features)
	if err != nil {
		t.Fatal(err)
	}
	if g.divert, err = g.ns.Divert(context.Background(), userns.Divert{Interface: "tap0", Gateway: gatewayMAC}); err != nil {
		t.Fatal(err)
	}
	g.start(t, d)
	// The kernel makes an address of IPv6 its own when the device's carrier has
	// been noticed, which may take a second.
	settle.Until(t, "the guest has its address of IPv6", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/ipv6_route", pid))
		return err == nil && strings.Contains(string(b), fmt.Sprintf("%x 80", own[1].Addr().As16()))
	})
	return g
}

// pollable returns f's file, non-blocking, as the runtime's poller needs it.
func pollable(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := socket.Dup(f)
	f.Close()
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "tap0")
}

// holdNamespace makes a network namespace, until the test ends.
func holdNamespace(t testing.TB) (ns *userns.Namespace, pid int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), guestEnv+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	ns, err = userns.OpenTarget(userns.Target{PID: cmd.Process.Pid, NetOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns, cmd.Process.Pid
}

// start makes the gateway, which runs until the test ends.
func (g *guest) start(t testing.TB, d *tap.Device) {
	t.Helper()
	all := policy.AllPorts()
	rules, err := policy.New(policy.Config{Gateway4: gateways[0], Gateway6: gateways[1], Guests: own, HostLoopback: all})
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := stack.New(stack.Config{Device: d, MTU: 1500, MAC: gatewayMAC, Addresses: gateways, Source: rules.Source})
	if err != nil {
		t.Fatal(err)
	}
	common := nat.Config{Guest: gateway, Rules: rules, Flows: g.flows, Gateway4: gateways[0], Gateway6: gateways[1]}
	mover, err := relay.NewMover(relay.MoverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if g.tcp, err = nat.NewTCP(nat.TCPConfig{Config: common, Mover: mover}); err != nil {
		t.Fatal(err)
	}
	g.shortcut, err = New(Config{Config: common, Stack: gateway, TCP: g.tcp, Mover: mover, Listeners: g.divert.Listeners()})
	if err != nil {
		t.Fatal(err)
	}
	gateway.HandleTCP(g.tcp.Handle)
	gateway.HandleSYN(g.shortcut.Handle, Points()...)
	for _, run := range []func(context.Context) error{gateway.Run, mover.Run, g.tcp.Run, g.shortcut.Run} {
		start(t, run)
	}
	t.Cleanup(func() {
		if err := g.divert.Remove(); err != nil {
			t.Error(err)
		}
		for _, f := range g.divert.Clients() { // nobody here uses them
			f.Close()
		}
	})
}

// sockets returns unconnected sockets of a family inside the guest.
func (g *guest) sockets(t testing.TB, f family, n int) []*os.File {
	t.Helper()
	list := make([]userns.Socket, n)
	for i := range list {
		list[i] = userns.Socket{Family: socket.Family(f.host), Type: unix.SOCK_STREAM}
	}
	files, err := g.ns.Sockets(context.Background(), list)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// connect connects a guest's socket, which it takes over.
func connect(f *os.File, to netip.AddrPort) (*net.TCPConn, error) {
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
	defer cancel()
	if err := socket.Connect(ctx, f, to); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(3 * settle.Patience))
	return c.(*net.TCPConn), nil
}

// dial connects from the guest, or fails the test.
func (g *guest) dial(t testing.TB, f family, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := connect(g.sockets(t, f, 1)[0], to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestGuest runs tests in both families with one guest, which takes a second to
// make: the kernel needs that to notice the carrier of a device (linkwatch).
func TestGuest(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGuest(t)
	for name, test := range map[string]func(*testing.T, *guest, family){
		"echo": testEcho, "refused": testRefused, "reset": testReset, "connect and close": testConnectClose, "port again": testPortAgain,
	} {
		for i, f := range families() {
			f.gateway = gateways[i]
			t.Run(name+"/"+f.name, func(t *testing.T) {
				g.before = counts{}
				g.before = g.count()
				test(t, g, f)
				settle.Until(t, "all flows are gone", func() bool { return g.flows.Len(flow.TCP) == 0 })
			})
		}
	}
}

// counts are statistics of both ways.
type counts struct{ connected, refused, unreachable, putBack, handed, unknown, byFrames uint64 }

// count returns the statistics since the test began.
func (g *guest) count() counts {
	s, b := &g.shortcut.Stats, &g.before
	return counts{
		s.Connected.Load() - b.connected, s.Refused.Load() - b.refused, s.Unreachable.Load() - b.unreachable,
		s.PutBack.Load() - b.putBack, s.Handed.Load() - b.handed, s.Unknown.Load() - b.unknown, g.tcp.Stats.Connected.Load() - b.byFrames,
	}
}

// want compares the statistics since the test began.
func (g *guest) want(t *testing.T, want counts) {
	t.Helper()
	if got := g.count(); got != want {
		t.Errorf("counts: got %+v, want %+v", got, want)
	}
}

// listenTCP calls handle for each connection to the host's loopback, until the test
// ends, and returns where the guest finds it.
func (f family) listenTCP(t testing.TB, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.host, 0)))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(3 * settle.Patience))
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return netip.AddrPortFrom(f.gateway, l.Addr().(*net.TCPAddr).AddrPort().Port())
}

func echo(c *net.TCPConn) { _, _ = io.Copy(struct{ io.Writer }{c}, c) }

func testEcho(t *testing.T, g *guest, f family) {
	c := g.dial(t, f, f.listenTCP(t, echo))
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
	g.want(t, counts{connected: 1, putBack: 1})
}

func testRefused(t *testing.T, g *guest, f family) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.host, 0)))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	sockets := g.sockets(t, f, 2)
	to := netip.AddrPortFrom(f.gateway, l.Addr().(*net.TCPAddr).AddrPort().Port())
	if _, err := connect(sockets[0], to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refused: got %v, want %v", err, syscall.ECONNREFUSED)
	}
	nowhere := map[string]string{"ipv4": "203.0.113.1:80", "ipv6": "[2001:db8:1::1]:80"}[f.name]
	if _, err := connect(sockets[1], netip.MustParseAddrPort(nowhere)); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("unreachable: got %v, want %v", err, syscall.ENETUNREACH)
	}
	g.want(t, counts{refused: 1, unreachable: 1})
}

func testReset(t *testing.T, g *guest, f family) {
	to := f.listenTCP(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
	})
	c := g.dial(t, f, to)
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset by the host: got %v, want %v", err, syscall.ECONNRESET)
	}
	at := make(chan error, 1)
	to = f.listenTCP(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		_, err := c.Read(make([]byte, 1))
		at <- err
	})
	c = g.dial(t, f, to)
	c.Write([]byte("x"))
	c.SetLinger(0)
	c.Close()
	if err := receive(t, at, "the host's end"); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reset by the guest: got %v, want %v", err, syscall.ECONNRESET)
	}
	g.want(t, counts{connected: 2, putBack: 2})
}

// 32 clients connect and close, and the host closes first every other time.
func testConnectClose(t *testing.T, g *guest, f family) {
	const clients, rounds = 32, 32
	to := f.listenTCP(t, echo)
	sockets := g.sockets(t, f, clients*rounds)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for _, s := range sockets[i*rounds:][:rounds] {
				c, err := connect(s, to)
				if err != nil {
					t.Error(err)
					continue
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
	g.want(t, counts{connected: clients * rounds, putBack: clients * rounds})
}
