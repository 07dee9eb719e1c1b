package shortcut

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/stack/shortcut/mark"
	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// TestMain checks that no test leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) {
	beGuest()
	os.Exit(settle.Main(m))
}

// The guest's address, that of the target as the guest has it, and that of the
// gateway, in each family. The namespace's loopback device has the first two.
type family struct {
	name                   string
	guest, target, gateway netip.Addr
	host                   netip.Addr // what target means
}

func families() []family {
	return []family{
		{"ipv4", netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("10.0.2.2"), netip.AddrFrom4([4]byte{127, 0, 0, 1})},
		{"ipv6", netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fd00::2"), netip.IPv6Loopback()},
	}
}

var (
	gatewayMAC = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}
	guestMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// A world has all but the guest's namespace: that is the test's end of a wire,
// and the test its kernel, which makes connections to the listeners for the SYNs
// that are put back. The target of the guest is what listens on the same port of
// the host's loopback.
type world struct {
	shortcut *Shortcut
	flows    *flow.Table
	tcp      *nat.TCP
	broken   chan struct{}
	wire     *tap.Device
	frames   chan []byte // that came to the guest
	ports    map[string]uint16
	end      context.CancelFunc // of the shortcut
	ended    chan struct{}
	holding  atomic.Bool // SYNs go to kept
	kept     chan *stack.SYN
	inbound  atomic.Pointer[Dialer] // hears of strays too
}

func newWorld(t *testing.T, changes ...func(*Config)) *world {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{Header: true, Checksum: true, TSO: true, USO: true})
	if err != nil {
		t.Fatal(err)
	}
	var maps []policy.Map
	var own []netip.Addr
	for _, f := range families() {
		maps = append(maps, policy.Map{Guest: f.target, Host: f.host, Ports: policy.AllPorts()})
		own = append(own, f.gateway)
	}
	rules, err := policy.New(policy.Config{Gateway4: own[0], Gateway6: own[1], Maps: maps})
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := stack.New(stack.Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: own})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{flows: flow.New(flow.Config{}), wire: b, frames: make(chan []byte, 1024), ports: make(map[string]uint16), broken: make(chan struct{}, 8), ended: make(chan struct{}), kept: make(chan *stack.SYN, 1)}
	common := nat.Config{Guest: gateway, Rules: rules, Flows: w.flows, Gateway4: own[0], Gateway6: own[1]}
	mover, err := relay.NewMover(relay.MoverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if w.tcp, err = nat.NewTCP(nat.TCPConfig{Config: common, Mover: mover}); err != nil {
		t.Fatal(err)
	}
	gateway.HandleTCP(w.tcp.Handle)
	cfg := Config{Config: common, Stack: gateway, TCP: w.tcp, Mover: mover, Listeners: w.listen(t), Broken: func() { w.broken <- struct{}{} }}
	for _, change := range changes {
		change(&cfg)
	}
	if w.shortcut, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	gateway.HandleSYN(w.handle, Points()...)
	gateway.HandleStray(w.handleStray)
	start(t, mover.Run)
	start(t, w.tcp.Run)
	start(t, gateway.Run)
	ctx, end := context.WithCancel(context.Background())
	w.end = end
	start(t, func(test context.Context) error {
		defer close(w.ended)
		context.AfterFunc(test, end)
		return w.shortcut.Run(ctx)
	})
	w.read(t)
	return w
}

// handleStray gives both directions a segment, as the engine does.
func (w *world) handleStray(seg *stack.Stray) bool {
	inbound := w.inbound.Load()
	return inbound != nil && inbound.HandleStray(seg) || w.shortcut.HandleStray(seg)
}

// handle gives the shortcut a SYN, or keeps it.
func (w *world) handle(syn *stack.SYN) bool {
	if w.holding.Load() {
		w.kept <- syn
		return true
	}
	return w.shortcut.Handle(syn)
}

// listen makes what stands for the transparent listeners.
func (w *world) listen(t *testing.T) (files []*os.File) {
	t.Helper()
	for _, f := range families() {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.target, 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		file, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		w.ports[f.name] = l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return files
}

// read collects what comes to the guest, until the test ends.
func (w *world) read(t *testing.T) {
	b := make([]byte, tap.MaxFrame+tap.HeaderLen)
	reader := w.wire.NewReader(b)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = reader.Run(func(n int) { w.frames <- append([]byte(nil), b[tap.HeaderLen:n]...) })
	})
	t.Cleanup(func() {
		w.wire.Close()
		wg.Wait()
	})
}

// start runs run until the test ends.
func start(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// send sends a frame of the guest's.
func (w *world) send(t *testing.T, frame []byte) {
	t.Helper()
	out := w.wire.NewWriter()
	out.Add(make([]byte, tap.HeaderLen))
	out.Add(frame)
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}

// next returns the next frame that comes to the guest.
func (w *world) next(t *testing.T) []byte {
	t.Helper()
	return receive(t, w.frames, "a frame to the guest")
}

// receive returns the next element of c.
func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(settle.Patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// none wants no frame to the guest until now, when all work of the reader is
// done.
func (w *world) none(t *testing.T) {
	t.Helper()
	select {
	case b := <-w.frames:
		t.Errorf("got a frame %x, want none", b)
	default:
	}
}

// segment returns a frame with a TCP segment from the guest.
func segment(from, to netip.AddrPort, dscp, ttl, flags uint8, sequence, ack uint32) []byte {
	b := append(append([]byte{}, gatewayMAC...), guestMAC...)
	tcp := binary.BigEndian.AppendUint16(nil, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, sequence)
	tcp = binary.BigEndian.AppendUint32(tcp, ack)
	tcp = append(tcp, 6<<4, flags, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4) // MSS 1460
	const ecn = 2
	if from.Addr().Is4() {
		b = append(b, 8, 0, 0x45, dscp<<2|ecn, 0, byte(20+len(tcp)), 0, 1, 0x40, 0, ttl, unix.IPPROTO_TCP, 0, 0)
		b = append(append(b, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(b[24:], ^sum(b[14:34]))
		return append(b, tcp...)
	}
	b = append(b, 0x86, 0xdd, 6<<4|dscp>>2, dscp<<6|ecn<<4, 0, 0, 0, byte(len(tcp)), unix.IPPROTO_TCP, ttl)
	b = append(append(b, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	return append(b, tcp...)
}

func sum(b []byte) uint16 {
	var n uint32
	for i := 0; i < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return uint16(n>>16 + n&0xffff)
}

// Flags of TCP, and where its header is in a frame.
const (
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

func tcpOf(frame []byte) []byte {
	if frame[14]>>4 == 6 {
		return frame[54:]
	}
	return frame[34:]
}

// A client is a program of the guest's, of which the test plays the kernel.
type client struct {
	w        *world
	from, to netip.AddrPort
	sequence uint32
}

// newClient returns a client of the family, whose port is its own.
func (w *world) newClient(t *testing.T, f family) *client {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.guest, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from := l.Addr().(*net.TCPAddr).AddrPort()
	return &client{w: w, from: from, to: netip.AddrPortFrom(f.target, w.ports[f.name]), sequence: 1000}
}

// syn sends the client's SYN.
func (c *client) syn(t *testing.T) {
	t.Helper()
	c.w.send(t, segment(c.from, c.to, mark.Local, 64, flagSYN, c.sequence, 0))
}

// next returns the next segment that comes to the client; others' are skipped.
func (c *client) next(t *testing.T) []byte {
	t.Helper()
	for {
		if tcp := tcpOf(c.w.next(t)); binary.BigEndian.Uint16(tcp[2:]) == c.from.Port() {
			return tcp
		}
	}
}

// wantPutBack wants the client's SYN back.
func (c *client) wantPutBack(t *testing.T) {
	t.Helper()
	want := segment(c.from, c.to, mark.Local, 64, flagSYN, c.sequence, 0)
	copy(want, guestMAC)
	copy(want[6:], gatewayMAC)
	for {
		got := c.w.next(t)
		if string(got) == string(want) {
			return
		}
		if binary.BigEndian.Uint16(tcpOf(got)) == c.from.Port() {
			t.Fatalf("put back: got %x, want %x", got, want)
		}
	}
}

// connect does what the kernel does with the SYN that was put back.
func (c *client) connect(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := c.tryConnect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (c *client) tryConnect() (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(c.from), Timeout: settle.Patience}
	conn, err := d.Dial("tcp", c.to.String())
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(2 * settle.Patience))
	return conn.(*net.TCPConn), nil
}

// open makes a whole connection, after which the rules have proved themselves:
// until the listener has accepted it, others would go by frames.
func (c *client) open(t *testing.T) *net.TCPConn {
	t.Helper()
	c.syn(t)
	c.wantPutBack(t)
	conn := c.connect(t)
	settle.Until(t, "the connection is accepted", func() bool { return !c.w.shortcut.isOnTrial() })
	return conn
}

// serve returns the connections to the target of a family.
func (w *world) serve(t *testing.T, f family) <-chan *net.TCPConn {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.host, w.ports[f.name])))
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan *net.TCPConn, 64)
	var all []*net.TCPConn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(2 * settle.Patience))
			all = append(all, c)
			conns <- c
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		for _, c := range all {
			c.Close()
		}
	})
	return conns
}

// namespaceEnv is set in the test binary that runs in namespaces of its own.
const namespaceEnv = "TAPROOT_SHORTCUT_NAMESPACE"

// inNamespace returns true in a process that has a user and a network
// namespace of its own, with the families' addresses. In any other process it
// runs the test again in such a one and returns false.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != "" {
		setUpLoopback(t)
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	// The race detector would wait a second at the end of each process.
	cmd.Env = append(os.Environ(), namespaceEnv+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		t.Errorf("in a namespace: %v\n%s", err, out)
	case strings.Contains(os.Getenv("TAPROOT_MUST"), "netns"):
		t.Fatalf("make a namespace: %v", err)
	default:
		t.Skipf("make a namespace: %v", err)
	}
	return false
}

// setUpLoopback gives the loopback device the families' addresses.
func setUpLoopback(t *testing.T) {
	t.Helper()
	s4, s6 := controlSocket(t, unix.AF_INET), controlSocket(t, unix.AF_INET6)
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifreq.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s4, unix.SIOCSIFFLAGS, ifreq); err != nil {
		t.Fatalf("lo up: %v", err)
	}
	list := families()
	for alias, address := range map[string]netip.Addr{"lo:1": list[0].guest, "lo:2": list[0].target} {
		ifreq, err := unix.NewIfreq(alias)
		if err != nil {
			t.Fatal(err)
		}
		if err := ifreq.SetInet4Addr(address.AsSlice()); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(s4, unix.SIOCSIFADDR, ifreq); err != nil {
			t.Fatalf("address %s: %v", address, err)
		}
	}
	for _, address := range []netip.Addr{list[1].guest, list[1].target} {
		in6 := struct { // struct in6_ifreq of linux/ipv6.h
			address [16]byte
			prefix  uint32
			index   int32
		}{address.As16(), 128, 1}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s6), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&in6))); errno != 0 {
			t.Fatalf("address %s: %v", address, errno)
		}
		// The kernel's duplicate address detection is over at once on a loopback
		// device, but in another thread.
		settle.Until(t, address.String()+" is usable", func() bool {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
}

func controlSocket(t *testing.T, family int) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}
