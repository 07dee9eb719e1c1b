package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// newHost reads a host's network of lines like those of ip(8):
//
//	192.0.2.2/24 eth0
//	default via 192.0.2.1 eth0 metric 100
//	10.8.0.0/16 via 192.0.2.7 eth0
//	192.0.2.0/24 link eth0
//	198.51.100.0/24 dev eth0
func newHost(t *testing.T, text string) host {
	t.Helper()
	var h host
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 2 {
			h.addresses = append(h.addresses, address{netip.MustParsePrefix(words[0]), words[1]})
			continue
		}
		if len(words) == 0 {
			continue
		}
		var r route
		switch words[1] {
		case "via":
			r.gateway = netip.MustParseAddr(words[2])
			words = words[3:]
		case "link":
			r.kernel = true
			words = words[2:]
		case "dev":
			words = words[2:]
		default:
			t.Fatalf("line %q", line)
		}
		r.device = words[0]
		if len(words) == 3 {
			fmt.Sscan(words[2], &r.metric)
		}
		destination := strings.Fields(line)[0]
		switch {
		case destination != "default":
			r.prefix = netip.MustParsePrefix(destination)
		case r.gateway.Is6():
			r.prefix = netip.MustParsePrefix("::/0")
		default:
			r.prefix = netip.MustParsePrefix("0.0.0.0/0")
		}
		h.routes = append(h.routes, r)
	}
	return h
}

// describe writes a plan as one line.
func describe(p Plan) string {
	var b strings.Builder
	b.WriteString(p.Interface)
	for _, f := range p.Families() {
		if len(f.Guest) == 0 && len(f.Routes) == 0 {
			continue
		}
		fmt.Fprintf(&b, "; %v gw %v", f.Guest, f.Gateway)
		if f.Foreign {
			b.WriteString(" foreign")
		}
		for _, r := range f.Routes {
			fmt.Fprintf(&b, ", %v", r.Destination)
			if r.Gateway.IsValid() {
				fmt.Fprintf(&b, " via %v", r.Gateway)
			}
			if r.OnLink {
				b.WriteString(" onlink")
			}
			if r.Metric != 0 {
				fmt.Fprintf(&b, " metric %d", r.Metric)
			}
		}
	}
	return b.String()
}

const usualHost = `
	127.0.0.1/8 lo
	192.0.2.2/24 eth0
	192.0.2.9/24 eth0
	10.1.0.2/16 vpn0
	2001:db8::2/64 eth0
	fe80::2/64 eth0
	192.0.2.0/24 link eth0
	2001:db8::/64 link eth0
	10.1.0.0/16 link vpn0
	default via 192.0.2.1 eth0 metric 100
	default via 10.1.0.1 vpn0 metric 600
	default via fe80::1 eth0 metric 1024
	10.8.0.0/16 via 192.0.2.7 eth0
	198.51.100.0/24 dev eth0`

func TestCopy(t *testing.T) {
	addr := netip.MustParseAddr
	given := CopyFamily{Addresses: []netip.Addr{addr("10.0.2.100")}, Bits: 24, Gateway: addr("10.0.2.2")}
	for _, tt := range []struct {
		name string
		copy Copy
		host string
		want string
	}{
		{"everything", Copy{}, usualHost,
			"eth0; [192.0.2.2/24 192.0.2.9/24] gw 192.0.2.1 foreign, 0.0.0.0/0 via 192.0.2.1 metric 100, 10.8.0.0/16 via 192.0.2.7, 198.51.100.0/24" +
				"; [2001:db8::2/64] gw fe80::1 foreign, ::/0 via fe80::1 metric 1024"},
		{"gateway means the host", Copy{MapGateway: true, V6: CopyFamily{Off: true}, V4: CopyFamily{NoRoutes: true, NoAddresses: true}}, usualHost,
			"eth0; [192.0.2.2/24] gw 192.0.2.1, 0.0.0.0/0 via 192.0.2.1"},
		{"addresses given", Copy{Interface: "tap0", V4: given}, usualHost,
			"tap0; [10.0.2.100/24] gw 10.0.2.2 foreign, 0.0.0.0/0 via 10.0.2.2; [2001:db8::2/64] gw fe80::1 foreign, ::/0 via fe80::1 metric 1024"},
		{"address of the host's network", Copy{V4: CopyFamily{Addresses: []netip.Addr{addr("192.0.2.77")}}, V6: CopyFamily{Off: true}}, usualHost,
			"eth0; [192.0.2.77/24] gw 192.0.2.1 foreign, 0.0.0.0/0 via 192.0.2.1"},
		{"address of a class", Copy{V4: CopyFamily{Addresses: []netip.Addr{addr("172.20.0.7")}}, V6: CopyFamily{Off: true}}, usualHost,
			"eth0; [172.20.0.7/16] gw 192.0.2.1 foreign, 0.0.0.0/0 via 192.0.2.1 onlink"},
		{"another template", Copy{Template: "vpn0"}, usualHost,
			"vpn0; [10.1.0.2/16] gw 10.1.0.1 foreign, 0.0.0.0/0 via 10.1.0.1 metric 600"},
		{"no default route", Copy{}, "10.1.0.2/16 vpn0\n10.1.0.0/16 link vpn0",
			"vpn0; [10.1.0.2/16] gw 169.254.2.2"},
		{"point to point", Copy{}, "10.1.0.2/32 ppp0\ndefault dev ppp0",
			"ppp0; [10.1.0.2/32] gw 169.254.2.2, 0.0.0.0/0"},
		{"no network at all", Copy{}, "127.0.0.1/8 lo",
			"tap0; [169.254.2.1/16] gw 169.254.2.2, 0.0.0.0/0 via 169.254.2.2; [] gw fe80::1, ::/0 via fe80::1"},
		{"gateway elsewhere", Copy{V6: CopyFamily{Off: true}}, "192.0.2.2/32 eth0\ndefault via 198.51.100.1 eth0",
			"eth0; [192.0.2.2/32] gw 198.51.100.1 foreign, 0.0.0.0/0 via 198.51.100.1 onlink"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.copy.plan(newHost(t, tt.host))
			if got := describe(p); err != nil || got != tt.want {
				t.Errorf("got  %s and error %v\nwant %s", got, err, tt.want)
			}
		})
	}
	if _, err := (Copy{Template: "eth7"}).plan(newHost(t, usualHost)); err == nil || !strings.Contains(err.Error(), "eth7") {
		t.Errorf("template that is not there: got error %v", err)
	}
}

func TestSlirp(t *testing.T) {
	p, err := Slirp{IPv6: true, MAC: []byte{0x52, 0x55, 0x0a, 0x00, 0x02, 0x07}}.Plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "tap0; [10.0.2.100/24] gw 10.0.2.2, 0.0.0.0/0 via 10.0.2.2; [fd00::5055:aff:fe00:207/64] gw fd00::2"
	if got := describe(p); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	setup := p.Setup()
	if len(setup.Addresses) != 1 || len(setup.Routes) != 1 || !setup.AcceptRA {
		t.Errorf("setup: got %+v", setup)
	}
	if p.LinkLocal != slirpLinkLocal || p.V6.Resolver.String() != "fd00::3" {
		t.Errorf("got link-local %v and resolver %v", p.LinkLocal, p.V6.Resolver)
	}
	if p, err := (Slirp{}).Plan(nil); err != nil || p.V6.On() {
		t.Errorf("without IPv6: got %+v and error %v", p.V6, err)
	}
}

func TestCopyAutonomous(t *testing.T) {
	for text, want := range map[string]string{
		usualHost: "true [2001:db8::/64]",
		"192.0.2.2/24 eth0\n2001:db8::2/48 eth0\ndefault via fe80::1 eth0": "false []",
		"": "false [fe80::/10]",
	} {
		p, err := Copy{}.plan(newHost(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(p.V6.Autonomous, p.V6.Sources); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}
