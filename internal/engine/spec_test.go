package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"taproot/internal/plan"
	"taproot/stack/policy"
)

// TestMaps wants the resolver's address not to be a way around a loopback that
// is closed.
func TestMaps(t *testing.T) {
	port853, err := policy.ParsePorts("853")
	if err != nil {
		t.Fatal(err)
	}
	all := policy.AllPorts()
	for _, tt := range []struct {
		name   string
		cfg    Config
		server string
		want   []string
	}{
		{"nothing", Config{}, "198.51.100.53", nil},
		{"loopback", Config{HostLoopback: all}, "198.51.100.53", []string{"10.0.2.2 127.0.0.1 all"}},
		{"resolver", Config{DNS: DNS{Ports: all}}, "198.51.100.53", []string{"10.0.2.3 198.51.100.53 all"}},
		{"resolver on the loopback", Config{DNS: DNS{Ports: all}}, "127.0.0.53", nil},
		{"resolver on the loopback, which is open", Config{DNS: DNS{Ports: all}, HostLoopback: all}, "127.0.0.53",
			[]string{"10.0.2.2 127.0.0.1 all", "10.0.2.3 127.0.0.53 all"}},
		{"one port of it", Config{DNS: DNS{Ports: port853}}, "127.0.0.53", []string{"10.0.2.3 127.0.0.53 853"}},
		{"resolver of the other family", Config{DNS: DNS{Ports: all}}, "2001:db8::53", nil},
	} {
		p := testPlan(t, plan.Offsets{Net6: plan.Network{Off: true}})
		h := hostState{Servers: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(tt.server), 53)}}
		var got []string
		for _, m := range newSpec(p, &tt.cfg).maps(&h, p) {
			got = append(got, fmt.Sprintf("%v %v %v", m.Guest, m.Host, m.Ports))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
