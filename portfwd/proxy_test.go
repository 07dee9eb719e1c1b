package portfwd

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/pires/go-proxyproto"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// TestProxyHeader has the guest's program see who the client is.
func TestProxyHeader(t *testing.T) {
	for _, version := range []uint8{1, 2} {
		b := newBench(t, flow.Config{})
		e := b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), Target: port(80), Proxy: version})
		c := dial(t, e.at("127.0.0.1"))
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		r := bufio.NewReader(c)
		h, err := proxyproto.Read(r)
		if err != nil {
			t.Fatalf("v%d: %v", version, err)
		}
		source := netip.AddrPortFrom(gateway4, c.LocalAddr().(*net.TCPAddr).AddrPort().Port())
		if h.Version != version || h.SourceAddr.String() != source.String() || h.DestinationAddr.String() != "10.0.2.100:80" {
			t.Errorf("v%d: got %+v, want from %v", version, h, source)
		}
		if rest, err := io.ReadAll(r); string(rest) != "question" || err != nil {
			t.Errorf("v%d: got %q, %v, want the question", version, rest, err)
		}
	}
}

// TestProxyHeaderAddresses tells what the header says of whom.
func TestProxyHeaderAddresses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	source, target := addrPort("10.0.2.2:5000"), addrPort("10.0.2.100:80")
	here := c.LocalAddr().String()
	_, port, _ := net.SplitHostPort(here)
	for _, tt := range []struct {
		name, client, want string
		listener           Listener
	}{
		{"none", "198.51.100.1:5000", "", Listener{}},
		{"remote", "198.51.100.1:5000", "PROXY TCP4 198.51.100.1 127.0.0.1 5000 " + port + "\r\n", Listener{Proxy: 1}},
		{"loopback", "127.0.0.1:5000", "PROXY TCP4 10.0.2.2 10.0.2.100 5000 80\r\n", Listener{Proxy: 1}},
		{"Unix socket", "0.0.0.0:5000", "PROXY UNKNOWN\r\n", Listener{Proxy: 1, Unix: true}},
		{"Unix socket, v2", "0.0.0.0:5000", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", Listener{Proxy: 2, Unix: true}},
	} {
		got, err := tt.listener.proxyHeader(f, addrPort(tt.client), source, target)
		if string(got) != tt.want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// TestOtherFamily leads a client to the family on which the guest's program
// listens, with the gateway as source.
func TestOtherFamily(t *testing.T) {
	for _, tt := range []struct{ client, refuses, source, target netip.Addr }{
		{netip.IPv6Loopback(), guest6, gateway4, guest4},
		{netip.AddrFrom4([4]byte{127, 0, 0, 1}), guest4, gateway6, guest6},
	} {
		b := newBench(t, flow.Config{})
		b.guest.refuseAt(tt.refuses)
		e := b.add(t, Rule{Listen: netip.AddrPortFrom(tt.client, 0), Target: port(80)})
		c := dial(t, e.at(tt.client.String()))
		wantEcho(t, c)
		want := dialed{
			netip.AddrPortFrom(tt.source, c.LocalAddr().(*net.TCPAddr).AddrPort().Port()),
			netip.AddrPortFrom(tt.target, 80),
		}
		if got := <-b.guest.dialed; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
	}
}

// TestOtherFamilyRefuses wants the client reset when both refuse, and not led
// elsewhere than the rule says.
func TestOtherFamilyRefuses(t *testing.T) {
	b := newBench(t, flow.Config{})
	b.guest.refuse(syscall.ECONNREFUSED)
	wantRefused(t, b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), Target: port(80)}).at("127.0.0.1"))
	b.guest.refuse(nil)
	b.guest.refuseAt(guest4)
	wantRefused(t, b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), Target: netip.AddrPortFrom(guest4, 80)}).at("127.0.0.1"))
	select {
	case d := <-b.guest.dialed:
		t.Errorf("got %v, want no connection", d)
	default:
	}
	if got := b.publisher.Stats.Refused.Load(); got != 2 {
		t.Errorf("refused: got %d, want 2", got)
	}
}
