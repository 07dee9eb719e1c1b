package dhcp

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// pooled is slirp4netns's configuration.
func pooled(size int) Config {
	c := config()
	c.Pool4, c.Pool4Size = netip.MustParseAddr("10.0.2.15"), size
	return c
}

// A client asks a server in a few words.
type client struct {
	server *Server
	last   byte // of its hardware address
	id     string
}

// ask returns the answer: an address, "nak" or "".
func (c client) ask(t *testing.T, kind dhcpv4.MessageType, addr string, modifiers ...dhcpv4.Modifier) string {
	t.Helper()
	modifiers = append(modifiers, func(m *dhcpv4.DHCPv4) { m.ClientHWAddr[5] = c.last })
	if addr != "" {
		modifiers = append(modifiers, withOption(dhcpv4.OptRequestedIPAddress(ip(addr))))
	}
	if c.id != "" {
		modifiers = append(modifiers, withOption(dhcpv4.OptClientIdentifier([]byte(c.id))))
	}
	reply, _, ok := c.server.Reply4(request4(t, kind, modifiers...))
	if !ok {
		return ""
	}
	m, err := dhcpv4.FromBytes(reply)
	if err != nil {
		t.Fatal(err)
	}
	if m.MessageType() == dhcpv4.MessageTypeNak {
		return "nak"
	}
	return m.YourIPAddr.String()
}

func (c client) discover(t *testing.T, wish string) string {
	t.Helper()
	return c.ask(t, dhcpv4.MessageTypeDiscover, wish)
}

func (c client) request(t *testing.T, addr string) string {
	t.Helper()
	return c.ask(t, dhcpv4.MessageTypeRequest, addr)
}

func (c client) release(t *testing.T, addr string) {
	t.Helper()
	c.ask(t, dhcpv4.MessageTypeRelease, "", dhcpv4.WithClientIP(ip(addr)))
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestPool(t *testing.T) {
	s := New(pooled(3))
	a, b, c, d := client{s, 1, ""}, client{s, 2, ""}, client{s, 3, ""}, client{s, 1, "another"}
	want(t, "first", a.discover(t, ""), "10.0.2.15")
	want(t, "again", a.discover(t, "10.0.2.17"), "10.0.2.15")
	want(t, "while it is offered", b.discover(t, ""), "10.0.2.16")
	want(t, "request", a.request(t, "10.0.2.15"), "10.0.2.15")
	want(t, "somebody else's", b.request(t, "10.0.2.15"), "nak")
	want(t, "not of the pool", b.request(t, "10.0.2.100"), "nak")
	want(t, "one behind the pool", b.request(t, "10.0.2.18"), "nak")
	want(t, "without having asked", c.request(t, "10.0.2.17"), "10.0.2.17")
	want(t, "no address is left", d.discover(t, ""), "")
	c.release(t, "10.0.2.16") // not its own
	want(t, "still none", d.discover(t, ""), "")
	c.release(t, "10.0.2.17")
	want(t, "after a release", d.discover(t, "10.0.2.15"), "10.0.2.17")
	a.ask(t, dhcpv4.MessageTypeDecline, "10.0.2.15")
	want(t, "after a decline", a.discover(t, ""), "")
}

func TestPoolWish(t *testing.T) {
	s := New(pooled(16))
	want(t, "a wish", client{s, 1, ""}.discover(t, "10.0.2.30"), "10.0.2.30")
	want(t, "the same", client{s, 2, ""}.discover(t, "10.0.2.30"), "10.0.2.15")
	want(t, "outside", client{s, 3, ""}.discover(t, "10.0.2.31"), "10.0.2.16")
}

func TestPoolExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(pooled(1))
		a, b := client{s, 1, ""}, client{s, 2, ""}
		want(t, "offer", a.discover(t, ""), "10.0.2.15")
		time.Sleep(offerTime - time.Second)
		want(t, "within a minute", b.discover(t, ""), "")
		time.Sleep(time.Second)
		want(t, "after a minute", b.discover(t, ""), "10.0.2.15")
		want(t, "request", b.request(t, "10.0.2.15"), "10.0.2.15")
		time.Sleep(2*time.Hour - time.Second)
		want(t, "within the lease", a.request(t, "10.0.2.15"), "nak")
		want(t, "renewed", b.request(t, "10.0.2.15"), "10.0.2.15")
		time.Sleep(2 * time.Hour)
		want(t, "after the lease", a.request(t, "10.0.2.15"), "10.0.2.15")
	})
}

func TestPoolOfNothing(t *testing.T) {
	for _, c := range []Config{pooled(0), pooled(-1), {Pool4: netip.MustParseAddr("fd00::1"), Pool4Size: 1}} {
		if p := New(c).pool; p != nil {
			t.Errorf("%v addresses from %v: got a pool", c.Pool4Size, c.Pool4)
		}
	}
	if n := New(pooled(1 << 30)).pool.size(); n != maxPool {
		t.Errorf("size: got %v, want %v", n, maxPool)
	}
	if n := newPool(netip.MustParseAddr("255.255.255.255"), 2).size(); n != 1 {
		t.Errorf("at the end of all addresses: got %v, want 1", n)
	}
}

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.leases)
}

func TestReply4Route(t *testing.T) {
	c := config()
	c.Guest4, c.Gateway4 = netip.MustParsePrefix("192.0.2.9/32"), netip.MustParseAddr("198.51.100.1")
	reply, _, _ := New(c).Reply4(request4(t, dhcpv4.MessageTypeDiscover))
	m, err := dhcpv4.FromBytes(reply)
	if err != nil {
		t.Fatal(err)
	}
	// RFC 3442: length, destination, router.
	wanted := []byte{32, 198, 51, 100, 1, 0, 0, 0, 0, 0, 198, 51, 100, 1}
	if got := m.GetOneOption(dhcpv4.OptionClasslessStaticRoute); !bytes.Equal(got, wanted) {
		t.Errorf("routes: got %v, want %v", got, wanted)
	}
	want(t, "router", m.Router()[0].String(), "198.51.100.1")
}

func TestReply4FQDN(t *testing.T) {
	c := config()
	c.FQDN = "guest.example.com"
	wire := "\x05guest\x07example\x03com\x00"
	for _, tt := range []struct {
		name      string
		modifiers []dhcpv4.Modifier
		want      string
	}{
		{"not asked for", nil, "\x0c\xff\xff" + wire},
		{"asked for", []dhcpv4.Modifier{withOption(dhcpv4.OptGeneric(dhcpv4.OptionFQDN, []byte{4, 0, 0}))}, "\x0c\xff\xff" + wire},
		{"old client", []dhcpv4.Modifier{withOption(dhcpv4.OptGeneric(dhcpv4.OptionFQDN, []byte{0, 0, 0, 'g'}))}, "\x08\xff\xffguest.example.com"},
	} {
		reply, _, _ := New(c).Reply4(request4(t, dhcpv4.MessageTypeDiscover, tt.modifiers...))
		m, err := dhcpv4.FromBytes(reply)
		if err != nil {
			t.Fatal(err)
		}
		want(t, tt.name, string(m.GetOneOption(dhcpv4.OptionFQDN)), tt.want)
	}
}
