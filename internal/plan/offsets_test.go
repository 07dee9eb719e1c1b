package plan

import (
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"taproot/userns"
)

func TestNewFamily(t *testing.T) {
	for _, tt := range []struct {
		prefix, gateway, resolver, guest string // "" for an error
	}{
		{"10.0.2.0/24", "10.0.2.2", "10.0.2.3", "10.0.2.100"},
		{"10.0.2.77/24", "10.0.2.2", "10.0.2.3", "10.0.2.100"},
		{"10.0.0.0/8", "10.0.0.2", "10.0.0.3", "10.0.0.100"},
		{"192.168.1.0/25", "192.168.1.2", "192.168.1.3", "192.168.1.100"},
		{"192.168.1.128/25", "192.168.1.130", "192.168.1.131", "192.168.1.228"},
		{"192.168.1.0/26", "", "", ""},
		{"192.168.1.192/26", "", "", ""},
		{"10.0.2.100/32", "", "", ""},
		{"fd00::/64", "fd00::2", "fd00::3", "fd00::64"},
		{"fd00::1:0:0:0:1/64", "fd00:0:0:1::2", "fd00:0:0:1::3", "fd00:0:0:1::64"},
		{"fd00::/121", "fd00::2", "fd00::3", "fd00::64"},
		{"fd00::80/121", "fd00::82", "fd00::83", "fd00::e4"},
		{"fd00::/122", "", "", ""},
		{"fd00::c0/122", "", "", ""},
		{"fd00::64/128", "", "", ""},
	} {
		prefix := netip.MustParsePrefix(tt.prefix)
		n, err := newFamily(prefix)
		if tt.gateway == "" {
			if err == nil || !strings.Contains(err.Error(), "no room") {
				t.Errorf("%s: got %+v and error %v, want no room", tt.prefix, n, err)
			}
			continue
		}
		guest := netip.PrefixFrom(netip.MustParseAddr(tt.guest), prefix.Bits())
		gateway := netip.MustParseAddr(tt.gateway)
		want := Family{Guest: []netip.Prefix{guest}, Gateway: gateway, Resolver: netip.MustParseAddr(tt.resolver), Routes: []userns.Route{defaultRoute(gateway)}}
		if err != nil || !reflect.DeepEqual(n, want) {
			t.Errorf("%s: got %+v and error %v, want %+v", tt.prefix, n, err, want)
		}
	}
	if got := new(Family).First(); got.IsValid() {
		t.Errorf("family that is off: got guest %v, want none", got)
	}
}

func TestCandidates(t *testing.T) {
	for name, tt := range map[string]struct {
		list  []netip.Prefix
		first string
	}{"IPv4": {candidates4(), "10.0.2.0/24"}, "IPv6": {candidates6(), "fd00::/64"}} {
		if got := tt.list[0].String(); got != tt.first {
			t.Errorf("%s: got %s first, want %s", name, got, tt.first)
		}
		seen := map[netip.Prefix]bool{}
		for _, p := range tt.list {
			if _, err := newFamily(p); err != nil || p != p.Masked() || seen[p] || !p.Addr().IsPrivate() {
				t.Errorf("%s: %v: error %v, again %v, private %v", name, p, err, seen[p], p.Addr().IsPrivate())
			}
			seen[p] = true
		}
	}
}

// routes returns host's routes by device "eth0".
func routes(prefixes ...string) []route {
	var list []route
	for _, p := range prefixes {
		list = append(list, route{prefix: netip.MustParsePrefix(p), device: "eth0"})
	}
	return list
}

func TestClash(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		routes []route
		want   string // the route, "" for none
	}{
		{"10.0.2.0/24", nil, ""},
		{"10.0.2.0/24", routes("10.0.3.0/24", "192.0.2.0/24", "fd00::/64"), ""},
		{"10.0.2.0/24", routes("192.0.2.0/24", "10.0.2.0/24"), "10.0.2.0/24 dev eth0"},
		{"10.0.2.0/24", routes("10.0.0.0/8"), "10.0.0.0/8 dev eth0"},
		{"10.0.0.0/8", routes("10.0.2.7/32"), "10.0.2.7/32 dev eth0"},
		{"fd00::/64", routes("0.0.0.0/1", "fd00::/8"), "fd00::/8 dev eth0"},
	} {
		got, found := clash(netip.MustParsePrefix(tt.prefix), tt.routes)
		if found != (tt.want != "") || found && got.String() != tt.want {
			t.Errorf("%s with %v: got %v, %v, want %q", tt.prefix, tt.routes, got, found, tt.want)
		}
	}
}

func TestChoose(t *testing.T) {
	all := []string{}
	for _, c := range candidates4() {
		all = append(all, c.String())
	}
	given := func(s string) Network { return Network{Prefix: netip.MustParsePrefix(s)} }
	for _, tt := range []struct {
		name   string
		want   string // the network, "" if off, "error: ..." for an error
		warned string // what the hint names, "" for no warning
		ask    Network
		routes []route
	}{
		{"default", "10.0.2.0/24", "", Network{}, nil},
		{"off", "", "", Network{Off: true, Auto: true}, routes("10.0.2.0/24")},
		{"default clashes", "10.0.2.0/24", "--net=auto", Network{}, routes("10.0.2.0/24")},
		{"given", "172.20.0.0/16", "", given("172.20.0.0/16"), routes("10.0.2.0/24")},
		{"given clashes", "172.20.0.0/16", "--net=auto", given("172.20.0.0/16"), routes("172.16.0.0/12")},
		{"given IPv6", "error: want one like 10.0.2.0/24", "", given("fd07::/64"), nil},
		{"given without room", "error: no room", "", given("172.20.0.0/30"), nil},
		{"auto", "10.0.2.0/24", "", Network{Auto: true}, routes("10.0.3.0/24")},
		{"auto, first taken", "10.0.3.0/24", "", Network{Auto: true}, routes("10.0.2.0/25")},
		{"auto, ten taken", "192.168.0.0/24", "", Network{Auto: true}, routes("10.0.0.0/8")},
		{"auto, all taken", "error: clash with the host's routes", "", Network{Auto: true}, routes(all...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hints := []string{}
			n, err := choose(tt.ask, candidates4(), tt.routes, func(message, hint string) { hints = append(hints, hint) })
			if part, isError := strings.CutPrefix(tt.want, "error: "); isError {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %+v and error %v, want %q", n, err, part)
				}
				return
			}
			got := ""
			if n.On() {
				got = n.First().Masked().String()
			}
			if err != nil || got != tt.want {
				t.Errorf("got %q and error %v, want %q", got, err, tt.want)
			}
			if warned := strings.Join(hints, ";"); tt.warned == "" && warned != "" || !strings.Contains(warned, tt.warned) {
				t.Errorf("warnings: got %q, want %q", warned, tt.warned)
			}
		})
	}
}

// TestChooseIPv6 wants the option of the other family in the hint.
func TestChooseIPv6(t *testing.T) {
	var got string
	n, err := choose(Network{}, candidates6(), routes("fd00::/8"), func(_, hint string) { got = hint })
	if err != nil || n.First().Masked().String() != "fd00::/64" || !strings.Contains(got, "--net6=auto") {
		t.Errorf("got %v, hint %q and error %v", n.First().Masked(), got, err)
	}
}

func TestOffsets(t *testing.T) {
	p, err := Offsets{}.plan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Interface != "tap0" || p.MTU != 1500 || len(p.MAC) != 6 || p.MAC[0]&3 != 2 {
		t.Errorf("defaults: got %q, %d, %v", p.Interface, p.MTU, p.MAC)
	}
	setup := p.Setup()
	wantAddresses := []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("fd00::64/64")}
	wantRoutes := []userns.Route{defaultRoute(netip.MustParseAddr("10.0.2.2")), defaultRoute(netip.MustParseAddr("fd00::2"))}
	if !slices.Equal(setup.Addresses, wantAddresses) || !slices.Equal(setup.Routes, wantRoutes) {
		t.Errorf("setup: got %v and %v", setup.Addresses, setup.Routes)
	}

	mac := net.HardwareAddr{2, 1, 1, 1, 1, 1}
	p, err = Offsets{Interface: "eth7", MTU: 9000, MAC: mac, Net4: Network{Off: true}}.plan(nil, nil)
	if err != nil || p.Interface != "eth7" || p.MTU != 9000 || p.MAC.String() != mac.String() || p.V4.On() {
		t.Errorf("given: got %+v and error %v", p, err)
	}
	if setup := p.Setup(); len(setup.Addresses) != 1 || len(setup.Routes) != 1 {
		t.Errorf("one family: got %+v", setup)
	}
	if _, err := (Offsets{Net4: Network{Off: true}, Net6: Network{Off: true}}).plan(nil, nil); err != errNoFamily {
		t.Errorf("no family: got %v, want %v", err, errNoFamily)
	}
	for name, o := range map[string]Offsets{
		"IPv6 for IPv4": {Net4: Network{Prefix: netip.MustParsePrefix("fd00::/64")}},
		"IPv4 for IPv6": {Net6: Network{Prefix: netip.MustParsePrefix("10.0.2.0/24")}},
	} {
		if p, err := o.plan(nil, nil); err == nil {
			t.Errorf("%s: got %+v, want an error", name, p)
		}
	}
}
