package portfwd

import (
	"errors"
	"net/netip"
	"testing"

	"taproot/stack/flow"
)

func addrPort(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}

func port(n uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, n) }

func TestRuleCheck(t *testing.T) {
	for _, tt := range []struct {
		want string // "": it is right
		rule Rule
	}{
		{"", Rule{}},
		{"", Rule{Listen: addrPort("127.0.0.1:80"), Target: addrPort("10.0.2.100:8080"), Ports: 10}},
		{"", Rule{Listen: port(65535), Ports: 1}},
		{"", Rule{Listen: port(1), Ports: 65535}},
		{"", Rule{Direction: Outbound, Listen: addrPort("[::1]:80"), Target: addrPort("127.0.0.1:0")}},
		{"", Rule{Loopback: true, Target: addrPort("[::1]:80")}},
		{"bad rule: no such direction", Rule{Direction: 2}},
		{"bad rule: icmp has no ports", Rule{Proto: flow.ICMP}},
		{"bad rule: -1 ports", Rule{Ports: -1}},
		{"bad rule: a range without a first port", Rule{Ports: 2}},
		{"bad rule: ports above 65535", Rule{Listen: port(65535), Ports: 2}},
		{"bad rule: ports above 65535", Rule{Listen: port(1), Target: port(65530), Ports: 10}},
		{"bad rule: outbound with a device", Rule{Direction: Outbound, Device: "eth0"}},
		{"bad rule: outbound from 10.0.0.1, want loopback", Rule{Direction: Outbound, Listen: addrPort("10.0.0.1:80")}},
		{"bad rule: to 10.0.0.1, want loopback", Rule{Direction: Outbound, Target: addrPort("10.0.0.1:80")}},
		{"bad rule: to 10.0.0.1, want loopback", Rule{Loopback: true, Target: addrPort("10.0.0.1:80")}},
		{"bad rule: to 127.0.0.1, want an address of the guest", Rule{Target: addrPort("127.0.0.1:80")}},
		{"bad rule: to 0.0.0.0, want an address of the guest", Rule{Target: addrPort("0.0.0.0:80")}},
		{"", Rule{Local: true, Listen: port(80)}},
		{"", Rule{ListenUnix: "/run/a.sock", Target: port(80)}},
		{"", Rule{ListenUnix: "/run/a.sock", TargetUnix: "/run/b.sock"}},
		{"", Rule{Direction: Outbound, Listen: port(80), TargetUnix: "/run/b.sock"}},
		{"", Rule{Proxy: 2, Source: SourceGateway}},
		{"bad rule: on the host's loopback, and on something else", Rule{Local: true, Listen: addrPort("10.0.0.1:80")}},
		{"bad rule: on the host's loopback, and on something else", Rule{Local: true, Direction: Outbound}},
		{"bad rule: a Unix socket for udp, want tcp", Rule{Proto: flow.UDP, ListenUnix: "/run/a.sock", Target: port(80)}},
		{"bad rule: 2 ports on one Unix socket", Rule{ListenUnix: "/run/a.sock", Target: port(80), Ports: 2}},
		{"bad rule: a Unix socket and an address to listen on", Rule{ListenUnix: "/run/a.sock", Listen: port(1), Target: port(80)}},
		{"bad rule: a Unix socket and an address to lead to", Rule{TargetUnix: "/run/a.sock", Target: port(80)}},
		{"bad rule: a Unix socket that leads to no port", Rule{ListenUnix: "/run/a.sock"}},
		{`bad rule: Unix socket "a.sock", want an absolute path of at most 107 bytes`, Rule{TargetUnix: "a.sock"}},
		{`bad rule: Unix socket "/run/", want the path of a file`, Rule{ListenUnix: "/run/", Target: port(80)}},
		{`bad rule: Unix socket "/run/..", want the path of a file`, Rule{TargetUnix: "/run/.."}},
		{"", Rule{Wait: true, Listen: addrPort("192.0.2.1:80")}},
		{"bad rule: it waits for an address, and names none", Rule{Wait: true, Local: true}},
		{"bad rule: it waits for an address, and names none", Rule{Wait: true, Direction: Outbound, Listen: addrPort("127.0.0.1:80")}},
		{"bad rule: PROXY protocol v3, want v1 or v2", Rule{Proxy: 3}},
		{"bad rule: PROXY protocol, want inbound tcp", Rule{Proxy: 1, Proto: flow.UDP}},
		{"bad rule: no such source", Rule{Source: 2}},
	} {
		err := tt.rule.check()
		if got := text(err); got != tt.want || err != nil && !errors.Is(err, ErrRule) {
			t.Errorf("%v: got %q, want %q", tt.rule, got, tt.want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRuleString(t *testing.T) {
	for _, tt := range []struct {
		want string
		rule Rule
	}{
		{"inbound tcp :0 to :0", Rule{}},
		{"inbound tcp 127.0.0.1:80 to :80", Rule{Listen: addrPort("127.0.0.1:80")}},
		{"outbound udp :80-89 to 127.0.0.1:8080", Rule{Direction: Outbound, Proto: flow.UDP, Listen: port(80), Ports: 10, Target: addrPort("127.0.0.1:8080")}},
		{"inbound tcp loopback:80 to :8080, source gateway, PROXY v2", Rule{Local: true, Listen: port(80), Target: port(8080), Source: SourceGateway, Proxy: 2}},
		{"inbound tcp unix:/run/a.sock to unix:/run/b.sock", Rule{ListenUnix: "/run/a.sock", TargetUnix: "/run/b.sock"}},
		{"inbound tcp [::1]:80%eth0 to [fd00::64]:80", Rule{Listen: addrPort("[::1]:80"), Device: "eth0", Target: addrPort("[fd00::64]:0")}},
	} {
		if got := tt.rule.String(); got != tt.want {
			t.Errorf("got %v, want %v", got, tt.want)
		}
	}
}

func TestRoute(t *testing.T) {
	both := Addresses{Gateway4: gateway4, Gateway6: gateway6, Guest4: guest4, Guest6: guest6}
	only4 := Addresses{Gateway4: gateway4, Guest4: guest4}
	host := netip.MustParseAddr("192.0.2.7")
	for _, tt := range []struct {
		name           string
		addresses      Addresses
		target, client string
		want           string // source and target
		mode           SourceMode
	}{
		{"remote", both, "", "198.51.100.1:5000", "198.51.100.1:5000 10.0.2.100:80", 0},
		{"remote IPv6", both, "", "[2001:db8::1]:5000", "[2001:db8::1]:5000 [fd00::64]:80", 0},
		{"loopback", both, "", "127.0.0.1:5000", "10.0.2.2:5000 10.0.2.100:80", 0},
		{"any loopback", both, "", "127.8.8.8:5000", "10.0.2.2:5000 10.0.2.100:80", 0},
		{"loopback IPv6", both, "", "[::1]:5000", "[fd00::2]:5000 [fd00::64]:80", 0},
		{"the host", both, "", "192.0.2.7:5000", "10.0.2.2:5000 10.0.2.100:80", 0},
		{"link-local", both, "", "[fe80::1]:5000", "[fd00::2]:5000 [fd00::64]:80", 0},
		{"the guest's own", both, "", "10.0.2.100:5000", "10.0.2.2:5000 10.0.2.100:80", 0},
		{"IPv6 to IPv4", both, "10.0.2.101:0", "[2001:db8::1]:5000", "10.0.2.2:5000 10.0.2.101:80", 0},
		{"IPv4 to IPv6", both, "[fd00::65]:0", "198.51.100.1:5000", "[fd00::2]:5000 [fd00::65]:80", 0},
		{"no IPv6", only4, "", "[2001:db8::1]:5000", "10.0.2.2:5000 10.0.2.100:80", 0},
		{"no gateway", only4, "[fd00::65]:0", "198.51.100.1:5000", "", 0},
		{"no address", Addresses{}, "", "198.51.100.1:5000", "", 0},
		{"remote, to loopback only", both, "127.0.0.1:0", "198.51.100.1:5000", "", 0},
		{"remote, behind the gateway", both, "", "198.51.100.1:5000", "10.0.2.2:5000 10.0.2.100:80", SourceGateway},
		{"remote IPv6, behind the gateway", both, "", "[2001:db8::1]:5000", "[fd00::2]:5000 [fd00::64]:80", SourceGateway},
		{"a Unix socket's", both, "", "0.0.0.0:5000", "10.0.2.2:5000 10.0.2.100:80", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &Publisher{}
			p.SetAddresses(tt.addresses)
			p.SetHostAddrs([]netip.Addr{host})
			source, target, ok := p.route(Listener{Target: addrPort(tt.target).Addr(), TargetPort: 80, Source: tt.mode}, addrPort(tt.client))
			got := ""
			if ok {
				got = source.String() + " " + target.String()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLocal(t *testing.T) {
	for _, tt := range []struct {
		rule   Rule
		client string
		want   bool
	}{
		{Rule{}, "127.0.0.1", false},
		{Rule{Loopback: true}, "127.0.0.1", true},
		{Rule{Loopback: true}, "::1", true},
		{Rule{Loopback: true}, "198.51.100.1", false},
		{Rule{Direction: Outbound}, "127.0.0.1", true},
	} {
		if got := tt.rule.listener(1, 0, 0, 80).local(netip.MustParseAddr(tt.client)); got != tt.want {
			t.Errorf("%v, client %v: got %v, want %v", tt.rule, tt.client, got, tt.want)
		}
	}
}

// TestReached wants the addresses that clients of a rule may have reached, and no other.
func TestReached(t *testing.T) {
	for _, tt := range []struct {
		rule     Rule
		yes, not []string
	}{
		{Rule{Listen: netip.MustParseAddrPort("127.0.0.1:80"), Ports: 3}, []string{"127.0.0.1:80", "[::ffff:127.0.0.1]:82"}, []string{"127.0.0.1:83", "127.0.0.1:79", "127.0.0.5:80", "[::1]:80"}},
		{Rule{Listen: netip.AddrPortFrom(netip.Addr{}, 80)}, []string{"192.0.2.1:80", "[2001:db8::1]:80"}, []string{"192.0.2.1:81"}},
		{Rule{Listen: netip.AddrPortFrom(netip.Addr{}, 80), Local: true}, []string{"127.0.0.1:80", "[::1]:80"}, []string{"192.0.2.1:80", "127.0.0.2:80"}},
		{Rule{Listen: netip.MustParseAddrPort("0.0.0.0:65535")}, []string{"192.0.2.1:65535"}, []string{"[2001:db8::1]:65535", "192.0.2.1:1"}},
		{Rule{Direction: Outbound, Listen: netip.MustParseAddrPort("127.0.0.1:80")}, nil, []string{"127.0.0.1:80"}},
		{Rule{ListenUnix: "/run/x"}, nil, []string{"127.0.0.1:0"}},
	} {
		for _, at := range tt.yes {
			if !tt.rule.Reached(netip.MustParseAddrPort(at)) {
				t.Errorf("%v: %s: got false", tt.rule, at)
			}
		}
		for _, at := range tt.not {
			if tt.rule.Reached(netip.MustParseAddrPort(at)) {
				t.Errorf("%v: %s: got true", tt.rule, at)
			}
		}
	}
}
