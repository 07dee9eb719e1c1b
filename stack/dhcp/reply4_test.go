package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func config() Config {
	return Config{
		Guest4:    netip.MustParsePrefix("10.0.2.100/24"),
		Gateway4:  netip.MustParseAddr("10.0.2.2"),
		Guest6:    netip.MustParseAddr("fd00::64"),
		MTU:       65520,
		Search:    []string{"corp.example.com", "example.com"},
		Hostname:  "guest",
		ServerMAC: net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee},
		Lease:     2 * time.Hour,

		Resolvers4: []netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("10.0.2.4")},
		Resolvers6: []netip.Addr{netip.MustParseAddr("fd00::3"), netip.MustParseAddr("fd00::4")},
	}
}

func clientMAC() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }

// request4 builds a request with modifiers.
func request4(t testing.TB, kind dhcpv4.MessageType, modifiers ...dhcpv4.Modifier) []byte {
	t.Helper()
	m, err := dhcpv4.NewDiscovery(clientMAC(), modifiers...)
	if err != nil {
		t.Fatal(err)
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	return m.ToBytes()
}

func ip(s string) net.IP { return net.IP(netip.MustParseAddr(s).AsSlice()) }

func withOption(o dhcpv4.Option) dhcpv4.Modifier { return dhcpv4.WithOption(o) }

func TestReply4Kinds(t *testing.T) {
	wants := func(addr string) dhcpv4.Modifier { return withOption(dhcpv4.OptRequestedIPAddress(ip(addr))) }
	from := func(addr string) dhcpv4.Modifier { return withOption(dhcpv4.OptServerIdentifier(ip(addr))) }
	has := func(addr string) dhcpv4.Modifier { return dhcpv4.WithClientIP(ip(addr)) }
	const (
		discover, request, inform = dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform
		all                       = "255.255.255.255:68"
	)
	for _, tt := range []struct {
		name    string
		request []byte
		want    dhcpv4.MessageType // None: no answer
		yours   string
		dst     string
	}{
		{"discover", request4(t, discover), dhcpv4.MessageTypeOffer, "10.0.2.100", all},
		{"discover with a wish", request4(t, discover, wants("192.168.0.1")), dhcpv4.MessageTypeOffer, "10.0.2.100", all},
		{"discover, unicast", request4(t, discover, dhcpv4.WithBroadcast(false)), dhcpv4.MessageTypeOffer, "10.0.2.100", all},
		{"selecting", request4(t, request, wants("10.0.2.100"), from("10.0.2.2")), dhcpv4.MessageTypeAck, "10.0.2.100", all},
		{"selecting another server", request4(t, request, wants("10.0.2.100"), from("10.0.2.9")), 0, "", ""},
		{"selecting another address", request4(t, request, wants("10.0.2.101"), from("10.0.2.2")), dhcpv4.MessageTypeNak, "0.0.0.0", all},
		{"after a reboot", request4(t, request, wants("10.0.2.100")), dhcpv4.MessageTypeAck, "10.0.2.100", all},
		{"after a reboot elsewhere", request4(t, request, wants("192.168.0.1")), dhcpv4.MessageTypeNak, "0.0.0.0", all},
		{"renewing", request4(t, request, has("10.0.2.100")), dhcpv4.MessageTypeAck, "10.0.2.100", "10.0.2.100:68"},
		{"renewing another address", request4(t, request, has("10.0.2.101")), dhcpv4.MessageTypeNak, "0.0.0.0", all},
		{"request of nothing", request4(t, request), 0, "", ""},
		{"inform", request4(t, inform, has("10.0.2.100")), dhcpv4.MessageTypeAck, "0.0.0.0", "10.0.2.100:68"},
		{"inform without address", request4(t, inform), dhcpv4.MessageTypeAck, "0.0.0.0", all},
		{"inform from elsewhere", request4(t, inform, has("8.8.8.8")), 0, "", ""},
		{"release", request4(t, dhcpv4.MessageTypeRelease, has("10.0.2.100")), 0, "", ""},
		{"decline", request4(t, dhcpv4.MessageTypeDecline, wants("10.0.2.100")), 0, "", ""},
		{"offer", request4(t, dhcpv4.MessageTypeOffer), 0, "", ""},
		{"relayed", request4(t, discover, dhcpv4.WithGatewayIP(ip("10.0.2.9"))), 0, "", ""},
		{"bootp", request4(t, dhcpv4.MessageTypeNone), 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(config())
			reply, dst, ok := s.Reply4(tt.request)
			if ok != (tt.want != 0) {
				t.Fatalf("answered: got %v, want %v", ok, tt.want != 0)
			}
			if !ok {
				if got, want := s.Stats(), (Stats{Ignored: 1}); got != want {
					t.Errorf("Stats: got %+v, want %+v", got, want)
				}
				return
			}
			m, err := dhcpv4.FromBytes(reply)
			if err != nil {
				t.Fatal(err)
			}
			if got := m.MessageType(); got != tt.want {
				t.Errorf("type: got %v, want %v", got, tt.want)
			}
			if got := m.YourIPAddr.String(); got != tt.yours {
				t.Errorf("address: got %v, want %v", got, tt.yours)
			}
			if got := dst.String(); got != tt.dst {
				t.Errorf("destination: got %v, want %v", got, tt.dst)
			}
			if !bytes.Equal(reply[4:8], tt.request[4:8]) || m.OpCode != dhcpv4.OpcodeBootReply || !bytes.Equal(m.ClientHWAddr, clientMAC()) {
				t.Errorf("header: got %v", m.Summary())
			}
			if got := m.ServerIdentifier().String(); got != "10.0.2.2" {
				t.Errorf("server: got %v", got)
			}
			hasLease := m.Options.Has(dhcpv4.OptionIPAddressLeaseTime)
			if want := tt.yours != "0.0.0.0"; hasLease != want {
				t.Errorf("lease: got %v, want %v", hasLease, want)
			}
		})
	}
}

func TestReply4Options(t *testing.T) {
	s := New(config())
	id := []byte{1, 2, 0, 0, 0, 0, 1}
	reply, _, _ := s.Reply4(request4(t, dhcpv4.MessageTypeDiscover, withOption(dhcpv4.OptClientIdentifier(id))))
	m, err := dhcpv4.FromBytes(reply)
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]any{
		"mask":      {net.IP(m.SubnetMask()).String(), "255.255.255.0"},
		"broadcast": {m.BroadcastAddress().String(), "10.0.2.255"},
		"router":    {m.Router()[0].String(), "10.0.2.2"},
		"dns":       {fmt.Sprint(m.DNS()), "[10.0.2.3 10.0.2.4]"},
		"mtu":       {string(m.GetOneOption(dhcpv4.OptionInterfaceMTU)), "\xff\xf0"},
		"lease":     {m.IPAddressLeaseTime(0), 2 * time.Hour},
		"host name": {m.HostName(), "guest"},
		"domain":    {m.DomainName(), "corp.example.com"},
		"search":    {strings.Join(m.DomainSearch().Labels, " "), "corp.example.com example.com"},
		"client id": {string(m.GetOneOption(dhcpv4.OptionClientIdentifier)), string(id)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", name, pair[0], pair[1])
		}
	}
}

func TestReply4LeavesOut(t *testing.T) {
	c := config()
	c.Resolvers4, c.MTU, c.Search, c.Hostname = nil, 0, nil, ""
	reply, _, _ := New(c).Reply4(request4(t, dhcpv4.MessageTypeDiscover))
	m, err := dhcpv4.FromBytes(reply)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []dhcpv4.OptionCode{
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionDNSDomainSearchList,
		dhcpv4.OptionDomainName, dhcpv4.OptionHostName, dhcpv4.OptionClientIdentifier,
		dhcpv4.OptionFQDN, dhcpv4.OptionClasslessStaticRoute,
	} {
		if m.Options.Has(code) {
			t.Errorf("option %v: got %v, want none", code, m.GetOneOption(code))
		}
	}
	c.Gateway4 = netip.Addr{}
	if _, _, ok := New(c).Reply4(request4(t, dhcpv4.MessageTypeDiscover)); ok {
		t.Error("without a gateway: got an answer, want none")
	}
	c = config()
	c.Guest4 = netip.Prefix{}
	if _, _, ok := New(c).Reply4(request4(t, dhcpv4.MessageTypeDiscover)); ok {
		t.Error("without IPv4: got an answer, want none")
	}
}

func TestReply4Size(t *testing.T) {
	s := New(config())
	s.SetSearch([]string{longName("a"), longName("b"), longName("c")}) // the third is beyond 512 bytes
	for _, tt := range []struct {
		name      string
		modifiers []dhcpv4.Modifier
		domains   int
	}{
		{"small client", nil, 0},
		{"says it is small", []dhcpv4.Modifier{withOption(dhcpv4.OptMaxMessageSize(100))}, 0},
		{"large client", []dhcpv4.Modifier{withOption(dhcpv4.OptMaxMessageSize(1500))}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reply, _, ok := s.Reply4(request4(t, dhcpv4.MessageTypeDiscover, tt.modifiers...))
			if !ok {
				t.Fatal("no answer")
			}
			m, err := dhcpv4.FromBytes(reply)
			if err != nil {
				t.Fatal(err)
			}
			domains := 0
			if search := m.DomainSearch(); search != nil {
				domains = len(search.Labels)
			}
			if domains != tt.domains {
				t.Errorf("domains: got %v, want %v", domains, tt.domains)
			}
			if tt.domains == 0 && len(reply) > minMessage-headers {
				t.Errorf("size: got %v, want at most %v", len(reply), minMessage-headers)
			}
		})
	}
}

// longName returns a name of 252 bytes.
func longName(s string) string { return strings.Repeat(strings.Repeat(s, 62)+".", 4)[:251] }

func TestReply4Malformed(t *testing.T) {
	good := request4(t, dhcpv4.MessageTypeDiscover)
	reply := bytes.Clone(good)
	reply[0] = 2
	for name, b := range map[string][]byte{
		"empty":       nil,
		"short":       good[:200],
		"no cookie":   good[:236],
		"cookie":      append(bytes.Clone(good[:236]), make([]byte, 64)...),
		"a reply":     reply,
		"huge":        append(bytes.Clone(good), make([]byte, maxRequest)...),
		"long option": append(bytes.Clone(good[:240]), 53, 200, 1),
	} {
		s := New(config())
		if _, _, ok := s.Reply4(b); ok {
			t.Errorf("%s: got an answer, want none", name)
		}
		if got, want := s.Stats(), (Stats{Malformed: 1}); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func FuzzReply4(f *testing.F) {
	f.Add(request4(f, dhcpv4.MessageTypeDecline, withOption(dhcpv4.OptRequestedIPAddress(ip("10.0.2.15")))))
	f.Add(request4(f, dhcpv4.MessageTypeDiscover))
	f.Add(request4(f, dhcpv4.MessageTypeRequest, withOption(dhcpv4.OptRequestedIPAddress(ip("10.0.2.100")))))
	f.Add(request4(f, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(ip("10.0.2.100"))))
	f.Fuzz(func(t *testing.T, request []byte) {
		c := config()
		c.FQDN = "guest.example.com"
		s := New(c)
		reply, dst, ok := s.Reply4(request)
		c.Pool4, c.Pool4Size = netip.MustParseAddr("10.0.2.15"), 2
		New(c).Reply4(request)
		if !ok {
			return
		}
		m, err := dhcpv4.FromBytes(reply)
		if err != nil {
			t.Fatalf("reply cannot be read: %v", err)
		}
		if m.OpCode != dhcpv4.OpcodeBootReply || !dst.IsValid() || dst.Port() != clientPort {
			t.Errorf("got %v to %v", m.Summary(), dst)
		}
		if your := m.YourIPAddr.String(); your != "10.0.2.100" && your != "0.0.0.0" {
			t.Errorf("address: got %v", your)
		}
	})
}
