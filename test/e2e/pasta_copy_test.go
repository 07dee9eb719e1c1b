package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"taproot/test/lab"
)

// The host's default routes, as a container has them.
const (
	default4 = "0.0.0.0/0 via " + lab.Router4
	default6 = "::/0 via " + lab.Router6
)

// TestPastaCopy: what the container's interface looks like, by the host's and
// by options.
func TestPastaCopy(t *testing.T) {
	const mac, ours = "02:00:00:00:00:07", "9a:55:9a:55:9a:55"
	own := []string{lab.Host4 + "/24", lab.Host6 + "/64"}
	routes := []string{default4, default6}
	tests := []struct {
		name    string
		prepare func(h *host)
		options string
		link    string
		addrs   []string
		routes  []string
		lacks   string
	}{
		{"as it is", nil, "", "eth0 65520", own, routes, ""},
		{"several addresses", moreAddresses, "", "eth0 65520",
			append([]string{"192.0.2.77/24", "172.20.0.5/16", "2001:db8:0:1::77/64"}, own...), routes, "copies the first of each family"},
		{"more routes", moreRoutes, "", "eth0 65520", own,
			append([]string{"203.0.113.0/24 via 192.0.2.9", "198.18.0.0/15", "2001:db8:77::/48 via 2001:db8:0:1::9"}, routes...), "copies the default routes"},
		{"another interface", secondInterface, "-i eth9", "eth9 65520", []string{"172.21.0.5/24", "2001:db8:21::5/64"},
			[]string{"0.0.0.0/0 via 172.21.0.1", "::/0 via 2001:db8:21::1"}, "wants routes of the interface in both families"},
		{"name", nil, "-I eth7", "eth7 65520", own, routes, ""},
		{"mtu", nil, "-m 1400", "eth0 1400", own, routes, ""},
		{"mtu not set", nil, "-m 0", "eth0 1500", own, routes, "sets no routes then"},
		{"ipv4 only", nil, "-4", "eth0 65520", own[:1], routes[:1], ""},
		{"ipv4 only, in words", nil, "--ipv4-only", "eth0 65520", own[:1], routes[:1], ""},
		{"ipv6 only", nil, "-6", "eth0 65520", own[1:], routes[1:], ""},
		{"address", nil, "-a 10.7.0.9 -n 24 -g 10.7.0.1", "eth0 65520", []string{"10.7.0.9/24", own[1]},
			[]string{"0.0.0.0/0 via 10.7.0.1", default6}, ""},
		{"netmask in words", nil, "-a 10.7.0.9 -n 255.255.0.0 -g 10.7.0.1", "eth0 65520", []string{"10.7.0.9/16", own[1]},
			[]string{"0.0.0.0/0 via 10.7.0.1", default6}, ""},
		{"address with a length", nil, "-a 10.7.0.9/20 -g 10.7.0.1", "eth0 65520", []string{"10.7.0.9/20", own[1]},
			[]string{"0.0.0.0/0 via 10.7.0.1", default6}, "came later"},
		{"both addresses", nil, "-a 10.7.0.9 -n 24 -g 10.7.0.1 -a 2001:db8:7::9 -g 2001:db8:7::1", "eth0 65520",
			[]string{"10.7.0.9/24", "2001:db8:7::9/64"}, []string{"0.0.0.0/0 via 10.7.0.1", "::/0 via 2001:db8:7::1"}, ""},
		{"addresses of the interface", nil, "--ns-mac-addr " + mac, "eth0 65520 " + mac, own, routes, ""},
		{"no addresses copied", nil, "--no-copy-addrs", "eth0 65520", own, routes, "came later"},
		{"no network on the host", noNetwork, "", "tap0 65520", []string{"169.254.2.1/16"}, []string{"0.0.0.0/0 via 169.254.2.2", "::/0 via fe80::1"}, "ends with status 1"},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if h.lacking(tt.lacks) {
					return
				}
				t.Parallel()
				h := h.another(t)
				if tt.prepare != nil {
					tt.prepare(h)
				}
				c := h.container()
				h.attach(append(append([]string{"--config-net"}, strings.Fields(tt.options)...), c.pid)...)
				link := onlyLink(t, c)
				if got := describeLink(link); !strings.HasPrefix(got, tt.link) {
					t.Errorf("interface: got %q, want %q", got, tt.link)
				}
				if link.MAC == ours {
					t.Errorf("the interface has the gateway's address %s", ours)
				}
				wantSame(t, "addresses", link.Addresses, tt.addrs)
				wantSame(t, "tentative addresses", link.Tentative, nil)
				wantSame(t, "routes", link.Routes, tt.routes)
			})
		}
	})
}

func describeLink(l lab.Link) string {
	return fmt.Sprintf("%s %d %s", l.Name, l.MTU, l.MAC)
}

func moreAddresses(h *host) {
	h.Host.Addresses(lab.HostInterface, "192.0.2.77/24", "172.20.0.5/16", "2001:db8:0:1::77/64")
}

func moreRoutes(h *host) {
	h.Host.AddRoute(lab.HostInterface, "203.0.113.0/24", "192.0.2.9")
	h.Host.AddRoute(lab.HostInterface, "198.18.0.0/15", "")
	h.Host.AddRoute(lab.HostInterface, "2001:db8:77::/48", "2001:db8:0:1::9")
}

// secondInterface has routes of its own, but not the first default routes.
func secondInterface(h *host) {
	h.Host.Command("ip", "link", "add", "eth9", "type", "veth", "peer", "name", "eth10").MustRun()
	h.Host.Command("ip", "link", "set", "eth10", "up").MustRun()
	h.Host.Command("ip", "link", "set", "eth9", "up").MustRun()
	h.Host.Addresses("eth9", "172.21.0.5/24", "2001:db8:21::5/64")
	h.Host.Command("ip", "route", "add", "default", "via", "172.21.0.1", "dev", "eth9", "metric", "500").MustRun()
	h.Host.Command("ip", "-6", "route", "add", "default", "via", "2001:db8:21::1", "dev", "eth9", "metric", "5000").MustRun()
}

// noNetwork leaves the host with its loopback interface.
func noNetwork(h *host) { h.Host.Command("ip", "link", "del", lab.HostInterface).MustRun() }

// TestPastaCopiedNetwork: a container with the host's address reaches the
// others of its network through us.
func TestPastaCopiedNetwork(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		serveName(t, h.Router, "tcp", ":7000", "router")
		c := h.container()
		h.attach("--config-net", "--no-map-gw", c.pid)
		wantCall(t, c.Namespace, "tcp", join(lab.Router4, 7000), "router "+lab.Host4)
		wantCall(t, c.Namespace, "tcp", join(lab.Router6, 7000), "router "+lab.Host6)
		if h.original {
			return // It answers for the gateway alone.
		}
		h.Router.Addresses("host0", "192.0.2.9/24", "2001:db8:0:1::9/64")
		wantCall(t, c.Namespace, "tcp", join("192.0.2.9", 7000), "router "+lab.Host4)
		wantCall(t, c.Namespace, "tcp", join("2001:db8:0:1::9", 7000), "router "+lab.Host6)
	})
}

// TestPastaFollow: the container's network changes with the host's. This is
// ours alone.
func TestPastaFollow(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	serveName(t, h.Outside, "tcp", ":7000", "outside")
	following, fixed := h.container(), h.container()
	h.attach("--config-net", "-q", "-t", "none", "-u", "none", following.pid)
	h.attach("--config-net", "-q", "--no-follow", "-t", "none", "-u", "none", fixed.pid)
	own, routes := []string{lab.Host4 + "/24", lab.Host6 + "/64"}, []string{default4, default6}
	steps := []struct {
		name   string
		change func()
		addrs  []string
		routes []string
	}{
		{"more addresses", func() { moreAddresses(h) }, append([]string{"192.0.2.77/24", "172.20.0.5/16", "2001:db8:0:1::77/64"}, own...), routes},
		{"more routes", func() { moreRoutes(h) }, append([]string{"192.0.2.77/24", "172.20.0.5/16", "2001:db8:0:1::77/64"}, own...),
			append([]string{"203.0.113.0/24 via 192.0.2.9", "198.18.0.0/15", "2001:db8:77::/48 via 2001:db8:0:1::9"}, routes...)},
		{"fewer addresses", func() {
			h.Host.RemoveAddress(lab.HostInterface, "192.0.2.77/24")
			h.Host.RemoveAddress(lab.HostInterface, "172.20.0.5/16")
			h.Host.RemoveAddress(lab.HostInterface, "2001:db8:0:1::77/64")
		}, own, append([]string{"203.0.113.0/24 via 192.0.2.9", "198.18.0.0/15", "2001:db8:77::/48 via 2001:db8:0:1::9"}, routes...)},
		{"fewer routes", func() {
			h.Host.RemoveRoute(lab.HostInterface, "203.0.113.0/24", "192.0.2.9")
			h.Host.RemoveRoute(lab.HostInterface, "198.18.0.0/15", "")
			h.Host.RemoveRoute(lab.HostInterface, "2001:db8:77::/48", "2001:db8:0:1::9")
		}, own, routes},
	}
	for _, step := range steps {
		step.change()
		sorted := func(s []string) []string { s = slices.Clone(s); slices.Sort(s); return s }
		var link lab.Link
		same := func() bool {
			link = onlyLink(t, following)
			return slices.Equal(link.Addresses, sorted(step.addrs)) && slices.Equal(link.Routes, sorted(step.routes))
		}
		if !eventually(same) {
			t.Fatalf("%s: got addresses %q, routes %q, want %q, %q", step.name, link.Addresses, link.Routes, sorted(step.addrs), sorted(step.routes))
		}
		wantCall(t, following.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
		still := onlyLink(t, fixed)
		wantSame(t, step.name+": --no-follow: addresses", still.Addresses, own)
		wantSame(t, step.name+": --no-follow: routes", still.Routes, routes)
	}
}

// TestPastaBare: without --config-net the interface is there, and nothing else.
func TestPastaBare(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		c := h.container()
		h.attach("-I", "eth3", c.pid)
		link := onlyLink(t, c)
		if link.Up || link.Name != "eth3" {
			t.Errorf("interface: got %+v, want eth3, down", link)
		}
		wantSame(t, "addresses", link.Addresses, nil)
		wantSame(t, "routes", link.Routes, nil)
	})
}
