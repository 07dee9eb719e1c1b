package e2e

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// TestPastaTargets: each way to say which network.
func TestPastaTargets(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		serveName(t, h.Outside, "tcp", ":7000", "outside")
		tests := []struct {
			name  string
			start func(h *host) *container
			lacks string
		}{
			{"process", func(h *host) *container {
				c := h.container()
				h.attach("--config-net", c.pid)
				return c
			}, ""},
			{"namespaces", func(h *host) *container {
				c := h.container()
				h.attach(append([]string{"--config-net"}, byNamespaces(c)...)...)
				return c
			}, ""},
			{"network of another user namespace", func(h *host) *container {
				c := h.container()
				h.attach("--config-net", "--netns", "/proc/"+c.pid+"/ns/net")
				return c
			}, "wants its user namespace, too"},
			{"user without rights inside", func(h *host) *container {
				c := h.holdNetwork(h.command("unshare", "--user", "--net", "cat"))
				h.attach("--config-net", c.pid)
				return c
			}, ""},
			{"path, as the engine", func(h *host) *container {
				e := h.engineer()
				c := e.container()
				e.attach("--config-net", "--netns", c.netns)
				return c
			}, ""},
			{"process, as the engine", func(h *host) *container {
				e := h.engineer()
				c := e.holdNetwork(e.command("unshare", "--net", "cat"))
				e.attach("--config-net", "--netns-only", c.pid)
				return c
			}, "cannot open what belongs to a process with more rights"},
			{"process of a namespace below the engine's", func(h *host) *container {
				e := h.engineer()
				c := e.holdNetwork(e.command("unshare", "--user", "--map-user=7", "--net", "cat"))
				e.attach("--config-net", c.pid)
				return c
			}, ""},
			{"name", func(h *host) *container {
				c := h.container()
				bindName(h, c, "green")
				h.attach("--config-net", "--userns", "/proc/"+c.pid+"/ns/user", "--netns", "green")
				return c
			}, ""},
			{"closed descriptors", func(h *host) *container {
				c := h.container()
				h.command("sh", "-c", "exec $0 --config-net $1 <&- >&- 2>&-", h.path, c.pid).MustRun()
				return c
			}, "mistakes its own descriptors for the standard ones"},
			{"another directory", func(h *host) *container {
				c := h.container()
				pasta := h.pasta("--config-net", c.pid)
				pasta.Dir = "/proc/" + c.pid
				if r := combined(t, pasta); r.status != 0 {
					t.Fatalf("status %d, output %q", r.status, r.output)
				}
				return c
			}, ""},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if h.lacking(tt.lacks) {
					return
				}
				c := tt.start(h.with(t))
				wantCall(t, c.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
				wantCall(t, c.Namespace, "tcp", join(lab.Outside6, 7000), "outside "+lab.Host6)
			})
		}
	})
}

// bindName makes a network known by a name, as ip-netns(8) does.
func bindName(h *host, c *container, name string) {
	h.t.Helper()
	path := "/run/netns/" + name
	h.Host.Command("sh", "-ec", "mkdir -p /run/netns; touch $0; mount --bind /proc/$1/ns/net $0", path, c.pid).MustRun()
	h.t.Cleanup(func() { h.Host.Do(func() error { return unix.Unmount(path, unix.MNT_DETACH) }) })
}

// TestPastaForbidden: networks that the user may not touch.
func TestPastaForbidden(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		stranger := h.hold(h.User("unshare", "--user", "--map-root-user", "--net", "cat")) // a sibling of the session's user
		tests := []struct {
			name string
			args []string
		}{
			{"process of another user", []string{stranger.pid}},
			{"network of another user", []string{"--netns", "/proc/" + stranger.pid + "/ns/net"}},
			{"network of the host", []string{"--netns", "/proc/self/ns/net"}},
		}
		for _, tt := range tests {
			r := combined(t, h.pasta(append([]string{"--config-net"}, tt.args...)...))
			if r.status != 1 || r.output == "" {
				t.Errorf("%s: got status %d, output %q, want 1 and the reason", tt.name, r.status, r.output)
			}
		}
		if links := stranger.Links(); len(links) > 0 {
			t.Errorf("left behind: %+v", links)
		}
	})
}

// TestPastaDyingTarget: a process that ends at any moment of the start. There
// is a network or a reason, and nothing stays.
func TestPastaDyingTarget(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var good, bad int
	for range 40 {
		c := h.container()
		pasta := h.pasta("--config-net", "-q", "-t", "8080-8080:80-80", "-u", "none", "-T", "none", "-U", "none", c.pid)
		timer := time.AfterFunc(rand.N(40*time.Millisecond), func() { c.holder.Process.Kill() })
		r := combined(t, pasta)
		timer.Stop()
		c.stop()
		switch {
		case r.status == 0:
			good++
		case r.status == 1 && strings.Contains(r.output, c.pid):
			bad++
		default:
			t.Errorf("status %d, output %q, want 0, or 1 and the reason", r.status, r.output)
		}
		h.Eventually("the port is free", func() bool { return canBind(h.Host, "tcp", 8080) })
	}
	t.Logf("%d complete, %d with a reason", good, bad)
}

// TestPastaKnownOptions: every option of the manual of 2026 is known, with and
// without an abbreviation of one.
func TestPastaKnownOptions(t *testing.T) {
	const young = "came later"
	tests := []struct{ options, lacks string }{
		{"-d", ""}, {"--debug", ""}, {"--trace", ""}, {"--stats 5", young}, {"-q", ""}, {"--quiet", ""}, {"-f", ""}, {"--foreground", ""},
		{"-e", ""}, {"--stderr", ""}, {"-l /dev/null", ""}, {"--log-file /dev/null", ""}, {"--log-size 65536", ""}, {"--runas 1000", "wants to be root"},
		{"-p /dev/null", ""}, {"--pcap /dev/null", ""}, {"-P /dev/null", ""}, {"--pid /dev/null", ""},
		{"-m 1500", ""}, {"--mtu 1500", ""}, {"-a 10.0.0.9", ""}, {"--address 10.0.0.9", ""}, {"--address 10.0.0.9/24", young}, {"-n 24", ""}, {"--netmask 255.255.255.0", ""},
		{"-M 02:00:00:00:00:01", ""}, {"--mac-addr 02:00:00:00:00:01", ""}, {"--ns-mac-addr 02:00:00:00:00:01", ""},
		{"-g 10.0.0.1", ""}, {"--gateway 10.0.0.1", ""}, {"-i eth0", ""}, {"--interface eth0", ""}, {"-o 192.0.2.2", ""}, {"--outbound 192.0.2.2", ""},
		{"--outbound-if4 eth0", ""}, {"--outbound-if6 eth0", ""}, {"-4", ""}, {"--ipv4-only", ""}, {"-6", ""}, {"--ipv6-only", ""}, {"-I eth5", ""}, {"--ns-ifname eth5", ""},
		{"-D 192.0.2.53", ""}, {"--dns 192.0.2.53", ""}, {"--dns none", ""}, {"--dns-forward 192.0.2.53", ""}, {"--dns-host 192.0.2.53", young},
		{"-S example.test", ""}, {"--search none", ""}, {"--dhcp-dns", ""}, {"--no-dhcp-dns", "refuses it"}, {"--dhcp-search", ""}, {"--no-dhcp-search", "refuses it"},
		{"-c /tmp/pasta.sock", young}, {"--conf-path /tmp/pasta.sock", young}, {"-H box", young}, {"--hostname box", young}, {"--fqdn box.example.test", young},
		{"--map-host-loopback 192.0.2.9", young}, {"--map-host-loopback none", young}, {"--no-map-gw", ""}, {"--map-guest-addr 192.0.2.9", young}, {"--map-guest-addr none", young},
		{"--no-tcp", ""}, {"--no-udp", ""}, {"--no-icmp", ""}, {"--no-dhcp", ""}, {"--no-ndp", ""}, {"--no-dhcpv6", ""}, {"--no-ra", ""},
		{"--userns /proc/self/ns/user", ""}, {"--netns /proc/self/ns/net", ""}, {"--netns-only", ""}, {"--no-netns-quit", ""}, {"--config-net", ""},
		{"--no-copy-routes", young}, {"--no-copy-addrs", young}, {"--freebind", young}, {"--host-lo-to-ns-lo", young}, {"--no-splice", young}, {"--splice-only", young},
		{"-t 80", ""}, {"--tcp-ports 80", ""}, {"-u 80", ""}, {"--udp-ports 80", ""}, {"-T 80", ""}, {"--tcp-ns 80", ""}, {"-U 80", ""}, {"--udp-ns 80", ""},
		{"--no-follow", "is ours"},
		{"--config", ""}, {"--tcp-p=80", ""}, {"-qft80", ""},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			if h.lacking(tt.lacks) {
				continue
			}
			r := combined(t, h.pasta(append(strings.Fields(tt.options), "--version")...))
			if r.status != 0 {
				t.Errorf("%s: got status %d, output %q, want 0", tt.options, r.status, r.output)
			}
		}
	})
}
