package policy

import (
	"net/netip"
	"testing"

	"taproot/stack/policy/policytest"
)

// tableRules are those of the table.
func tableRules(t *testing.T) *Rules {
	return rules(t, func(c *Config) {
		c.Gateway4, c.Gateway6 = netip.MustParseAddr(policytest.Gateway4), netip.MustParseAddr(policytest.Gateway6)
		c.Resolver4, c.Resolver6 = netip.MustParseAddr(policytest.Resolver4), netip.MustParseAddr(policytest.Resolver6)
		c.Guests = []netip.Prefix{netip.MustParsePrefix(policytest.Network4), netip.MustParsePrefix(policytest.Network6)}
		c.HostAddrs = []netip.Addr{netip.MustParseAddr(policytest.Host4), netip.MustParseAddr(policytest.Host6)}
	})
}

func TestTable(t *testing.T) {
	r := tableRules(t)
	for _, row := range policytest.Destinations() {
		addr := netip.MustParseAddr(row.Address)
		for _, p := range []Proto{TCP, UDP, ICMP} {
			port := uint16(80)
			if p == ICMP {
				port = 0
			}
			want := netip.AddrPortFrom(addr.Unmap(), port).String()
			if row.Rule != "" {
				want = "!" + row.Rule
			}
			if got := verdict(r, p, netip.AddrPortFrom(addr, port)); got != want {
				t.Errorf("%v to %s (%s): got %s, want %s", p, row.Address, row.Is, got, want)
			}
		}
		if denied := row.Seen != policytest.Open; row.Rule != "" && !denied {
			t.Errorf("%s: denied by %s, and forwarded", row.Address, row.Rule)
		}
	}
}

// TestTableOfSources: the unspecified addresses are no source of any flow, and
// what the link lets through for DHCP and NDP is not for Source to say.
func TestTableOfSources(t *testing.T) {
	r := tableRules(t)
	if r.Source(netip.Addr{}) {
		t.Error("from nowhere: got true, want false")
	}
	for _, row := range policytest.Sources() {
		if got := r.Source(netip.MustParseAddr(row.Address)); got != row.Allowed {
			t.Errorf("from %s (%s): got %v, want %v", row.Address, row.Is, got, row.Allowed)
		}
	}
}

// TestTableIsComplete wants a row for each rule that an address can meet.
func TestTableIsComplete(t *testing.T) {
	has := make(map[string]bool)
	for _, row := range policytest.Destinations() {
		has[row.Rule] = true
	}
	for _, rule := range []string{
		ruleHostLoopback, ruleResolver, ruleGuest, ruleUnspecified, ruleLoopback, ruleMulticast, ruleBroadcast,
		ruleReserved, ruleIPv4Compatible, ruleHost, ruleLinkLocal,
	} {
		if !has[rule] {
			t.Errorf("no row for rule %s", rule)
		}
	}
}
