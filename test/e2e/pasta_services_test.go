package e2e

import (
	"strings"
	"testing"

	"taproot/test/lab"
)

// dig asks a server of the container's for the name of the resolver that
// answers in the end.
func dig(t *testing.T, c *container, options ...string) string {
	t.Helper()
	args := append([]string{"+short", "+tries=4", "+time=10"}, options...)
	query := c.Command("dig", append(args, "name.example.test", "TXT")...)
	if err := query.Run(); err != nil {
		return silence
	}
	return strings.Trim(strings.TrimSpace(query.Out()), `"`)
}

// TestPastaDNS: who answers queries to the address of --dns-forward.
func TestPastaDNS(t *testing.T) {
	const forward6 = "2001:db8:9::53"
	tests := []struct {
		name    string
		resolv  string
		options string
		server  string
		want    string
		lacks   string // over UDP; over TCP the old program forwards nothing
	}{
		{"the host's resolver", "nameserver " + lab.Outside4, "--dns-forward " + podmanResolver, podmanResolver, "first", ""},
		{"the first of several", "nameserver " + lab.Second4 + "\nnameserver " + lab.Outside4, "--dns-forward " + podmanResolver, podmanResolver, "second", ""},
		{"a resolver on loopback", "nameserver 127.0.0.53", "--dns-forward " + podmanResolver, podmanResolver, "stub", ""},
		{"IPv6", "nameserver " + lab.Outside6, "--dns-forward " + forward6, forward6, "first6", ""},
		{"both families", "nameserver " + lab.Outside6 + "\nnameserver " + lab.Second4, "--dns-forward " + podmanResolver + " --dns-forward " + forward6, podmanResolver, "first6", "takes the first of the family"},
		{"dns-host", "nameserver " + lab.Outside4, "--dns-forward " + podmanResolver + " --dns-host " + lab.Second4, podmanResolver, "second", "came later"},
		{"across families", "nameserver " + lab.Outside6, "--dns-forward " + podmanResolver, podmanResolver, "first6", "one family each"},
		{"another address", "nameserver " + lab.Outside4, "--dns-forward " + podmanResolver, lab.Second4, "second", ""},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "dig")
		serveDNS(t, h.Outside, lab.Outside4, "first")
		serveDNS(t, h.Outside, lab.Second4, "second")
		serveDNS(t, h.Outside, lab.Outside6, "first6")
		serveDNS(t, h.Host, "127.0.0.53", "stub")
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if h.lacking(tt.lacks) {
					return
				}
				h := h.with(t)
				setResolvConf(t, h.Lab, tt.resolv+"\n")
				c := h.container()
				args := append([]string{"--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none"}, strings.Fields(tt.options)...)
				h.attach(append(args, c.pid)...)
				wantText(t, "over UDP", dig(t, c, "+notcp", "@"+tt.server), tt.want)
				if !h.original {
					wantText(t, "over TCP", dig(t, c, "+tcp", "@"+tt.server), tt.want)
				}
			})
		}
	})
}

// TestPastaDNSOverTLS: port 853 of the address is forwarded, too, as it is.
func TestPastaDNSOverTLS(t *testing.T) {
	t.Parallel()
	h := newHost(t) // The original of 2023 forwards port 53 alone.
	serveName(t, h.Outside, "tcp", lab.Outside4+":853", "tls")
	serveName(t, h.Outside, "udp", lab.Outside4+":853", "quic")
	serveName(t, h.Outside, "tcp", lab.Outside4+":854", "another")
	c := h.container()
	h.attach("--config-net", "-q", "--dns-forward", podmanResolver, c.pid)
	wantCall(t, c.Namespace, "tcp", join(podmanResolver, 853), "tls "+lab.Host4)
	wantCall(t, c.Namespace, "udp", join(podmanResolver, 853), "quic "+lab.Host4)
	wantNobody(t, c.Namespace, "tcp", join(podmanResolver, 854))
}

// TestPastaDNSFollows: the host's resolv.conf changes while the container runs.
// This is ours alone.
func TestPastaDNSFollows(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	h := newHost(t)
	serveDNS(t, h.Outside, lab.Outside4, "first")
	serveDNS(t, h.Outside, lab.Second4, "second")
	following, fixed := h.container(), h.container()
	h.attach("--config-net", "-q", "--dns-forward", podmanResolver, "-t", "none", "-u", "none", following.pid)
	h.attach("--config-net", "-q", "--no-follow", "--dns-forward", podmanResolver, "-t", "none", "-u", "none", fixed.pid)
	for _, step := range []struct{ resolver, want string }{{lab.Outside4, "first"}, {lab.Second4, "second"}, {lab.Outside4, "first"}} {
		setResolvConf(t, h.Lab, "nameserver "+step.resolver+"\n")
		lab.Eventually(t, step.want+" answers", func() bool {
			return dig(t, following, "+notcp", "@"+podmanResolver) == step.want && dig(t, following, "+tcp", "@"+podmanResolver) == step.want
		})
		wantText(t, "with --no-follow", dig(t, fixed, "@"+podmanResolver), "first")
	}
}

// newLink is a container whose interface eth0 is up and not configured.
func (h *host) newLink(options ...string) *container {
	h.t.Helper()
	c := h.container()
	c.calm()
	h.attach(append(options, c.pid)...)
	c.Command("ip", "link", "set", "lo", "up").MustRun()
	c.Command("ip", "link", "set", lab.HostInterface, "up").MustRun()
	h.Eventually("an address of the link", func() bool {
		out := c.Command("ip", "-6", "address", "show", "dev", lab.HostInterface, "scope", "link").MustRun()
		return strings.Contains(out, "inet6 ") && !strings.Contains(out, "tentative")
	})
	return c
}

func TestPastaUdhcpc(t *testing.T) {
	tests := []struct {
		name    string
		options string
		want    []string
		lacks   string
	}{
		{"as it is", "", []string{"ip=" + lab.Host4, "router=" + lab.Router4, "subnet=255.255.255.0", "mtu=65520"}, ""},
		{"address", "-a 10.7.0.9 -n 24 -g 10.7.0.1 -m 1400", []string{"ip=10.7.0.9", "router=10.7.0.1", "subnet=255.255.255.0", "mtu=1400"}, ""},
		{"names", "--dhcp-dns --dhcp-search -D 192.0.2.53 -S example.test", []string{"ip=" + lab.Host4, "dns=192.0.2.53", "search=example.test"}, ""},
		{"host name", "--hostname box", []string{"hostname=box"}, "came later"},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "udhcpc")
		script := h.WriteFile("lease.sh", strings.Replace(leaseScript, "search", "search|hostname", 1))
		h.Outside.Command("chmod", "755", script).MustRun()
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if h.lacking(tt.lacks) {
					return
				}
				h := h.with(t)
				c := h.newLink(strings.Fields(tt.options)...)
				out := c.Command("udhcpc", "-i", lab.HostInterface, "-f", "-q", "-n", "-t", "13", "-O", "mtu", "-O", "search", "-O", "hostname", "-s", script).MustRun()
				for _, want := range tt.want {
					wantContains(t, "lease", out, want+"\n")
				}
				if tt.name == "as it is" && strings.Contains(out, "dns=") {
					t.Errorf("lease: got %q, want no resolver", out)
				}
			})
		}
		t.Run("off", func(t *testing.T) {
			c := h.with(t).newLink("--no-dhcp")
			if err := c.Command("udhcpc", "-i", lab.HostInterface, "-f", "-q", "-n", "-t", "1", "-T", "1", "-s", script).Run(); err == nil {
				t.Error("udhcpc with --no-dhcp: got a lease, want none")
			}
		})
	})
}

func TestPastaDhclient(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "dhclient")
		script := h.WriteFile("lease.sh", leaseScript)
		h.Outside.Command("chmod", "755", script).MustRun()
		c := h.newLink()
		client := c.Command("dhclient", "-1", "-d", "-6", "-sf", script, "-lf", h.Dir+"/leases", "-pf", h.Dir+"/pid", "-cf", "/dev/null", lab.HostInterface).MustStart()
		h.Eventually("a lease", func() bool { return strings.Contains(client.Out(), "new_ip6_address="+lab.Host6+"\n") })
	})
}

// TestPastaRouterAdvertisement has the container's kernel configure itself, as
// well as rdisc6 look at it.
func TestPastaRouterAdvertisement(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "rdisc6")
		c := h.newLink()
		out := c.Command("rdisc6", "-1", "-r", "20", "-w", "2000", lab.HostInterface).MustRun()
		wantContains(t, "advertisement", out, "2001:db8:0:1::/64", "65520 bytes")
		h.Eventually("an address from the prefix", func() bool {
			for _, a := range onlyLink(t, c).Addresses {
				if strings.HasPrefix(a, "2001:db8:0:1:") {
					return true
				}
			}
			return false
		})
		off := h.newLink("--no-ra")
		if err := off.Command("rdisc6", "-1", "-r", "1", "-w", "500", lab.HostInterface).Run(); err == nil {
			t.Error("rdisc6 with --no-ra: got an advertisement, want none")
		}
	})
}

// TestPastaMAC: the address of our side of the link.
func TestPastaMAC(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		const mac = "02:00:00:00:00:09"
		tests := []struct {
			options, want string
			lacks         string
		}{
			{"", "9a:55:9a:55:9a:55", "has the host's MAC address"},
			{"-M " + mac, mac, ""},
		}
		for _, tt := range tests {
			if h.lacking(tt.lacks) {
				continue
			}
			c := h.container()
			h.attach(append(append([]string{"--config-net"}, strings.Fields(tt.options)...), c.pid)...)
			h.Eventually("the neighbour has "+tt.want, func() bool {
				wantNobody(t, c.Namespace, "tcp", join(lab.Outside4, 7009)) // which asks for it
				return strings.Contains(c.Command("ip", "neighbour", "show", lab.Router4).MustRun(), "lladdr "+tt.want)
			})
		}
	})
}
