package dhcp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

// request6 builds a message of the given type with a client identifier.
func request6(t testing.TB, kind dhcpv6.MessageType, modifiers ...dhcpv6.Modifier) *dhcpv6.Message {
	t.Helper()
	duid := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: clientMAC()}
	m, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{dhcpv6.WithClientID(duid)}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	return m
}

func withServer(last byte) dhcpv6.Modifier {
	mac := config().ServerMAC
	mac[5] = last
	return dhcpv6.WithServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac})
}

// withIA adds an IA_NA with addresses.
func withIA(id byte, addrs ...string) dhcpv6.Modifier {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{id}}
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: ip(a), PreferredLifetime: time.Hour, ValidLifetime: time.Hour})
	}
	return func(m dhcpv6.DHCPv6) { m.AddOption(ia) }
}

func withoutClient(m dhcpv6.DHCPv6) { m.(*dhcpv6.Message).Options.Del(dhcpv6.OptionClientID) }

// describe tells in a line what a reply gives: status, then for each identity
// association its first byte and addresses with lifetimes or its status.
func describe(m *dhcpv6.Message) string {
	var words []string
	if st := m.Options.Status(); st != nil {
		words = append(words, st.StatusCode.String())
	}
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			words = append(words, fmt.Sprintf("%d:%v/%v", ia.IaId[0], a.IPv6Addr, a.ValidLifetime))
		}
		if st := ia.Options.Status(); st != nil {
			words = append(words, fmt.Sprintf("%d:%v", ia.IaId[0], st.StatusCode))
		}
	}
	for _, ia := range m.Options.IATA() {
		words = append(words, fmt.Sprintf("ta:%v", ia.Options.Status().StatusCode))
	}
	for _, ia := range m.Options.IAPD() {
		words = append(words, fmt.Sprintf("pd:%v", ia.Options.Status().StatusCode))
	}
	return strings.Join(words, " ")
}

func TestReply6Kinds(t *testing.T) {
	const lease = "1:fd00::64/2h0m0s"
	const ours, other = 0xee, 0xef
	ta := func(m dhcpv6.DHCPv6) { m.AddOption(&dhcpv6.OptIATA{IaId: [4]byte{7}}) }
	pd := func(m dhcpv6.DHCPv6) { m.AddOption(&dhcpv6.OptIAPD{IaId: [4]byte{8}}) }
	for _, tt := range []struct {
		name    string
		request *dhcpv6.Message
		kind    dhcpv6.MessageType // None: no answer
		want    string
	}{
		{"solicit", request6(t, dhcpv6.MessageTypeSolicit, withIA(1)), dhcpv6.MessageTypeAdvertise, lease},
		{"solicit, rapid", request6(t, dhcpv6.MessageTypeSolicit, withIA(1), dhcpv6.WithRapidCommit), dhcpv6.MessageTypeReply, lease},
		{"solicit of everything", request6(t, dhcpv6.MessageTypeSolicit, withIA(1), withIA(2), ta, pd), dhcpv6.MessageTypeAdvertise,
			lease + " 2:NoAddrsAvail ta:NoAddrsAvail pd:NoPrefixAvail"},
		{"solicit without client", request6(t, dhcpv6.MessageTypeSolicit, withIA(1), withoutClient), 0, ""},
		{"solicit with server", request6(t, dhcpv6.MessageTypeSolicit, withIA(1), withServer(ours)), 0, ""},
		{"request", request6(t, dhcpv6.MessageTypeRequest, withServer(ours), withIA(1, "fd00::64")), dhcpv6.MessageTypeReply, lease},
		{"request of another address", request6(t, dhcpv6.MessageTypeRequest, withServer(ours), withIA(1, "fd00::65")),
			dhcpv6.MessageTypeReply, lease + " 1:fd00::65/0s"},
		{"request to another server", request6(t, dhcpv6.MessageTypeRequest, withServer(other), withIA(1)), 0, ""},
		{"request without server", request6(t, dhcpv6.MessageTypeRequest, withIA(1)), 0, ""},
		{"renew", request6(t, dhcpv6.MessageTypeRenew, withServer(ours), withIA(1, "fd00::64")), dhcpv6.MessageTypeReply, lease},
		{"rebind", request6(t, dhcpv6.MessageTypeRebind, withIA(1, "fd00::64")), dhcpv6.MessageTypeReply, lease},
		{"confirm", request6(t, dhcpv6.MessageTypeConfirm, withIA(1, "fd00::64")), dhcpv6.MessageTypeReply, "Success"},
		{"confirm of another", request6(t, dhcpv6.MessageTypeConfirm, withIA(1, "fd00::64", "2001:db8::1")), dhcpv6.MessageTypeReply, "NotOnLink"},
		{"confirm of nothing", request6(t, dhcpv6.MessageTypeConfirm, withIA(1)), 0, ""},
		{"release", request6(t, dhcpv6.MessageTypeRelease, withServer(ours), withIA(1, "fd00::64")), dhcpv6.MessageTypeReply, "Success"},
		{"decline", request6(t, dhcpv6.MessageTypeDecline, withServer(ours), withIA(1, "fd00::64")), dhcpv6.MessageTypeReply, "Success"},
		{"information", request6(t, dhcpv6.MessageTypeInformationRequest), dhcpv6.MessageTypeReply, ""},
		{"information without client", request6(t, dhcpv6.MessageTypeInformationRequest, withoutClient), dhcpv6.MessageTypeReply, ""},
		{"information from another", request6(t, dhcpv6.MessageTypeInformationRequest, withServer(other)), 0, ""},
		{"information with address", request6(t, dhcpv6.MessageTypeInformationRequest, withIA(1)), 0, ""},
		{"advertise", request6(t, dhcpv6.MessageTypeAdvertise, withIA(1)), 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(config())
			reply, ok := s.Reply6(tt.request.ToBytes(), netip.MustParseAddr("fe80::1"))
			if ok != (tt.kind != 0) {
				t.Fatalf("answered: got %v, want %v", ok, tt.kind != 0)
			}
			if !ok {
				if got, want := s.Stats(), (Stats{Ignored: 1}); got != want {
					t.Errorf("Stats: got %+v, want %+v", got, want)
				}
				return
			}
			m, err := dhcpv6.MessageFromBytes(reply)
			if err != nil {
				t.Fatal(err)
			}
			if m.Type() != tt.kind || m.TransactionID != tt.request.TransactionID {
				t.Errorf("header: got %v %v, want %v %v", m.Type(), m.TransactionID, tt.kind, tt.request.TransactionID)
			}
			if got := describe(m); got != tt.want {
				t.Errorf("content: got %v, want %v", got, tt.want)
			}
			hasClient, wants := m.Options.ClientID() != nil, tt.request.Options.ClientID() != nil
			if hasClient != wants || m.Options.ServerID() == nil {
				t.Errorf("identifiers: got %v, %v", m.Options.ClientID(), m.Options.ServerID())
			}
		})
	}
}

func TestReply6Options(t *testing.T) {
	s := New(config())
	for kind, modifier := range map[dhcpv6.MessageType]dhcpv6.Modifier{
		dhcpv6.MessageTypeSolicit:            withIA(1),
		dhcpv6.MessageTypeInformationRequest: dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer),
	} {
		reply, ok := s.Reply6(request6(t, kind, modifier).ToBytes(), netip.MustParseAddr("fe80::1"))
		if !ok {
			t.Fatalf("%v: no answer", kind)
		}
		m, err := dhcpv6.MessageFromBytes(reply)
		if err != nil {
			t.Fatal(err)
		}
		if dns := fmt.Sprint(m.Options.DNS()); dns != "[fd00::3 fd00::4]" {
			t.Errorf("%v: DNS: got %v, want fd00::3 and fd00::4", kind, dns)
		}
		if got, want := strings.Join(m.Options.DomainSearchList().Labels, " "), "corp.example.com example.com"; got != want {
			t.Errorf("%v: search: got %v, want %v", kind, got, want)
		}
		switch kind {
		case dhcpv6.MessageTypeSolicit:
			ia := m.Options.OneIANA()
			if ia.T1 != time.Hour || ia.T2 != 96*time.Minute || m.Options.Preference() != 255 {
				t.Errorf("T1, T2, preference: got %v, %v, %v", ia.T1, ia.T2, m.Options.Preference())
			}
		default:
			if got := m.Options.InformationRefreshTime(0); got != 2*time.Hour {
				t.Errorf("refresh: got %v, want 2h", got)
			}
		}
	}
}

func TestReply6Sources(t *testing.T) {
	request := request6(t, dhcpv6.MessageTypeSolicit, withIA(1)).ToBytes()
	for src, want := range map[string]bool{"fe80::1": true, "fd00::64": true, "::": false, "ff02::1": false, "10.0.2.100": false} {
		if _, ok := New(config()).Reply6(request, netip.MustParseAddr(src)); ok != want {
			t.Errorf("from %v: got %v, want %v", src, ok, want)
		}
	}
	c := config()
	c.Guest6 = netip.Addr{}
	if _, ok := New(c).Reply6(request, netip.MustParseAddr("fe80::1")); ok {
		t.Error("without IPv6: got an answer, want none")
	}
}

func TestReply6Malformed(t *testing.T) {
	good := request6(t, dhcpv6.MessageTypeSolicit, withIA(1)).ToBytes()
	relay := make([]byte, 40)
	relay[0] = byte(dhcpv6.MessageTypeRelayForward)
	for name, b := range map[string][]byte{
		"empty": nil,
		"short": good[:3],
		"cut":   good[:len(good)-1],
		"relay": relay,
		"huge":  append(good, make([]byte, maxRequest)...),
	} {
		s := New(config())
		if _, ok := s.Reply6(b, netip.MustParseAddr("fe80::1")); ok {
			t.Errorf("%s: got an answer, want none", name)
		}
		if got, want := s.Stats(), (Stats{Malformed: 1}); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestReply6StaysSmall(t *testing.T) {
	var modifiers []dhcpv6.Modifier
	for i := range byte(50) {
		modifiers = append(modifiers, withIA(i))
	}
	s := New(config())
	s.SetSearch([]string{longName("a"), longName("b"), longName("c")})
	reply, ok := s.Reply6(request6(t, dhcpv6.MessageTypeSolicit, modifiers...).ToBytes(), netip.MustParseAddr("fe80::1"))
	const most = 1280 - 48
	if !ok || len(reply) > most {
		t.Errorf("reply: got %v, %v bytes, want at most %v", ok, len(reply), most)
	}
}

func TestSetSearch(t *testing.T) {
	s := New(config())
	s.SetSearch([]string{"b.example"})
	if got := s.searchLabels(); len(got.Labels) != 1 || got.Labels[0] != "b.example" {
		t.Errorf("search: got %v, want [b.example]", got)
	}
	s.SetSearch(nil)
	if got := s.searchLabels(); got != nil {
		t.Errorf("search: got %v, want none", got)
	}
}

func TestReply6FQDN(t *testing.T) {
	c := config()
	c.FQDN = "guest.example.com"
	reply, _ := New(c).Reply6(request6(t, dhcpv6.MessageTypeInformationRequest).ToBytes(), netip.MustParseAddr("fe80::1"))
	m, err := dhcpv6.MessageFromBytes(reply)
	if err != nil {
		t.Fatal(err)
	}
	o := m.Options.FQDN()
	if o == nil || o.Flags != fqdn6NoUpdate || o.DomainName.Labels[0] != c.FQDN {
		t.Errorf("got %v, want %v", o, c.FQDN)
	}
}

func FuzzReply6(f *testing.F) {
	f.Add(request6(f, dhcpv6.MessageTypeSolicit, withIA(1), withIA(2, "fd00::1")).ToBytes())
	f.Add(request6(f, dhcpv6.MessageTypeRequest, withServer(0xee), withIA(1, "fd00::64")).ToBytes())
	f.Add(request6(f, dhcpv6.MessageTypeInformationRequest).ToBytes())
	src := netip.MustParseAddr("fe80::1")
	f.Fuzz(func(t *testing.T, request []byte) {
		s := New(config())
		reply, ok := s.Reply6(request, src)
		if !ok {
			return
		}
		m, err := dhcpv6.MessageFromBytes(reply)
		if err != nil {
			t.Fatalf("reply cannot be read: %v", err)
		}
		if kind := m.Type(); kind != dhcpv6.MessageTypeReply && kind != dhcpv6.MessageTypeAdvertise {
			t.Errorf("type: got %v", kind)
		}
	})
}
