package portfwd

import (
	"net/netip"
	"testing"

	"taproot/stack/flow"
)

// TestListens wants ports to be reached where they are published, and only as
// long as they are.
func TestListens(t *testing.T) {
	b := newBench(t, flow.Config{})
	here, there := "192.0.2.2", "[2001:db8::2]"
	for _, tt := range []struct {
		name       string
		rule       Rule
		tcp4, tcp6 bool
		udp4       bool
	}{
		{name: "all addresses", rule: Rule{Target: port(80)}, tcp4: true, tcp6: true},
		{name: "IPv4", rule: Rule{Listen: addrPort("0.0.0.0:0"), Target: port(80)}, tcp4: true},
		{name: "IPv6", rule: Rule{Listen: addrPort("[::]:0"), Target: port(80)}, tcp6: true},
		{name: "UDP", rule: Rule{Proto: flow.UDP, Listen: addrPort("0.0.0.0:0"), Target: port(80)}, udp4: true},
		{name: "loopback", rule: Rule{Local: true, Target: port(80)}},
		{name: "one that the host has not", rule: Rule{Listen: addrPort("192.0.2.2:0"), Freebind: true, Target: port(80)}, tcp4: true},
	} {
		e := b.add(t, tt.rule)
		port := e.Rule.Listen.Port()
		at := func(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddrPort(s+":1").Addr(), port) }
		for _, q := range []struct {
			proto flow.Proto
			at    netip.AddrPort
			want  bool
		}{{flow.TCP, at(here), tt.tcp4}, {flow.TCP, at(there), tt.tcp6}, {flow.UDP, at(here), tt.udp4}, {flow.TCP, at("127.0.0.1"), tt.tcp4 && !tt.rule.Freebind}} {
			if got := b.publisher.Listens(q.proto, q.at); got != q.want {
				t.Errorf("%s: %v %v: got %v, want %v", tt.name, q.proto, q.at, got, q.want)
			}
		}
		if err := b.table.Remove(e.ID); err != nil {
			t.Fatal(err)
		}
		if b.publisher.Listens(tt.rule.Proto, at(here)) || b.publisher.Listens(tt.rule.Proto, at(there)) {
			t.Errorf("%s: still there after its end", tt.name)
		}
	}
}
