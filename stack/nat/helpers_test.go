package nat

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/policy"
	"taproot/test/settle"
)

var (
	guest4   = netip.MustParseAddr("10.0.2.100")
	guest6   = netip.MustParseAddr("fd00::64")
	gateway4 = netip.MustParseAddr("10.0.2.2")
	gateway6 = netip.MustParseAddr("fd00::2")
)

// TestMain checks that no test leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) { os.Exit(settle.Main(m)) }

// A received is a datagram that the guest got.
type received struct {
	source, destination netip.AddrPort
	payload             string
	segment             int
}

// A fakeGuest keeps what it is sent.
type fakeGuest struct {
	datagrams chan received
	packets   chan []byte
}

func newFakeGuest() *fakeGuest {
	return &fakeGuest{make(chan received, 1024), make(chan []byte, 1024)}
}

func (g *fakeGuest) SendUDP(source, destination netip.AddrPort, payload []byte, segment int) error {
	g.datagrams <- received{source, destination, string(payload), segment}
	return nil
}

func (g *fakeGuest) SendPacket(b []byte) error {
	g.packets <- append([]byte(nil), b...)
	return nil
}

// next returns the next element of c.
func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(settle.Patience):
		t.Fatal("nothing came to the guest")
		panic("unreachable")
	}
}

func testRules(t testing.TB) *policy.Rules {
	t.Helper()
	all, err := policy.ParsePorts("all")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.New(policy.Config{
		Gateway4: gateway4, Gateway6: gateway6,
		Guests:       []netip.Prefix{netip.PrefixFrom(guest4, 24), netip.PrefixFrom(guest6, 64)},
		HostLoopback: all,
	})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// testConfig returns a Config for a guest of both families.
func testConfig(t testing.TB, guest Guest) Config {
	t.Helper()
	return Config{
		Guest: guest, Rules: testRules(t), Flows: flow.New(flow.Config{}),
		Gateway4: gateway4, Gateway6: gateway6,
	}
}

// newTestUDP returns a UDP that does not run yet.
func newTestUDP(t testing.TB, changes ...func(*UDPConfig)) (*UDP, *fakeGuest) {
	t.Helper()
	guest := newFakeGuest()
	cfg := UDPConfig{Config: testConfig(t, guest)}
	for _, change := range changes {
		change(&cfg)
	}
	u, err := NewUDP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return u, guest
}

// startUDP returns a UDP that runs until the test ends.
func startUDP(t *testing.T, changes ...func(*UDPConfig)) (*UDP, *fakeGuest) {
	t.Helper()
	u, guest := newTestUDP(t, changes...)
	start(t, u.Run)
	return u, guest
}

// start runs run until the test ends.
func start(t *testing.T, run func(context.Context) error) {
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

// listen opens a socket on the host, until the test ends.
func listen(t *testing.T, address string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(settle.Patience))
	return c
}

// portOf returns the port that a socket is bound to.
func portOf(c *net.UDPConn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// freePort returns a UDP port that nobody has on any address.
func freePort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return portOf(c)
}

// datagram returns what the guest's stack makes of a datagram.
func datagram(source, destination netip.AddrPort, payload string) stack.Datagram {
	return stack.Datagram{
		Source: source, Destination: destination, Payload: []byte(payload), TTL: 64,
		Header: udpOriginal(source, destination, header{uint16(len(payload)), 64, 0}, nil),
	}
}

// read returns the next datagram that c gets.
func read(t *testing.T, c *net.UDPConn) (payload string, source netip.AddrPort) {
	t.Helper()
	b := make([]byte, 1<<16)
	n, source, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), netip.AddrPortFrom(source.Addr().Unmap(), source.Port())
}

// write sends a datagram from c.
func write(t *testing.T, c *net.UDPConn, destination netip.AddrPort, payload string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(payload), destination); err != nil {
		t.Fatal(err)
	}
}

// families are the two ways to the host's loopback.
var families = []struct {
	name           string
	guest, gateway netip.Addr
	loopback       string
}{
	{"ipv4", guest4, gateway4, "127.0.0.1:0"},
	{"ipv6", guest6, gateway6, "[::1]:0"},
}

// sizes counts what a mapper holds.
func (m *mapper) sizes() (mappings, peers int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.mappings) != len(m.ids) {
		panic("mappings and ids differ")
	}
	return len(m.mappings), len(m.peers)
}

// mappingOf returns the mapping of a guest's end, or nil.
func (m *mapper) mappingOf(guest netip.AddrPort) *mapping {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.mappings[origin{guest: guest}]
}

// wantMappings checks the number of mappings.
func wantMappings(t *testing.T, m *mapper, when string, want int) {
	t.Helper()
	if got, _ := m.sizes(); got != want {
		t.Errorf("%s: got %d mappings, want %d", when, got, want)
	}
}
