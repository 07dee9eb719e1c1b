package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

// The command lines of this file are those that callers exec, read in their
// sources; so is what each does with the result.

// Addresses that podman gives to the resolver and to the host.
const (
	podmanResolver = "169.254.1.1"
	podmanHost     = "169.254.1.2"
)

// podman runs the program as podman 5 and 6 do (container-libs, network
// pasta): with an option at the end that old versions do not know, and once
// more without it if they say so.
func (e *engineer) podman(args ...string) {
	e.t.Helper()
	optional := []string{"--map-guest-addr", podmanHost}
	r := combined(e.t, e.pasta(slices.Concat(args, optional)...))
	retry := r.status == 1 && strings.Contains(r.output, "unrecognized option '"+optional[0])
	if retry != e.original {
		e.t.Errorf("another try without %s: got %v, want %v; status %d, output %q", optional[0], retry, e.original, r.status, r.output)
	}
	if retry {
		r = combined(e.t, e.pasta(args...))
	}
	if r.status != 0 {
		e.t.Fatalf("pasta failed with exit code %d:\n%s", r.status, r.output)
	}
	if !e.original && r.output != "" {
		e.t.Errorf("pasta logged warnings: %s", r.output)
	}
}

// addressesOf are the addresses that podman writes into the container's
// /etc/hosts: those of all interfaces but lo, none of the link only.
func addressesOf(c *container) []string {
	var all []string
	for _, link := range c.Links() {
		all = append(all, link.Addresses...)
	}
	return all
}

// servers are what the containers of this file may or may not reach.
func servers(t *testing.T, h *host) {
	t.Helper()
	serveName(t, h.Outside, "tcp", ":7000", "outside")
	serveName(t, h.Outside, "udp", lab.Outside4+":7000", "outside")
	serveName(t, h.Outside, "udp", "["+lab.Outside6+"]:7000", "outside")
	serveName(t, h.Host, "tcp", "127.0.0.1:7001", "loopback")
	serveName(t, h.Host, "tcp", lab.Host4+":7001", "host")
	serveDNS(t, h.Outside, lab.Outside4, "outside")
}

// wantOutside checks that a container reaches the outside, and from where.
func wantOutside(t *testing.T, c *container) {
	t.Helper()
	for _, f := range families {
		for _, network := range []string{"tcp", "udp"} {
			wantCall(t, c.Namespace, network, join(f.outside, 7000), "outside "+f.host)
		}
	}
}

// wantNames checks that an address answers queries.
func wantNames(t *testing.T, h *host, c *container, server string) {
	t.Helper()
	ways := []string{"+notcp", "+tcp"}
	if h.original {
		ways = ways[:1] // It did not forward TCP yet.
	}
	for _, way := range ways {
		out := c.Command("dig", "+short", "+tries=4", "+time=10", way, "@"+server, "www.example.test").MustRun()
		wantText(t, "dig "+way+" @"+server, out, lab.Outside4)
	}
}

func TestPastaPodman(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "dig")
		servers(t, h)
		e := h.engineer()
		c := e.container()
		e.podman("--config-net", "-t", "8080-8080:80-80", "-t", lab.Host4+"/8081-8082:81-82", "-t", "127.0.0.1/8083-8083:80-80",
			"-u", "8080-8080:80-80", "--dns-forward", podmanResolver,
			"-T", "none", "-U", "none", "--no-map-gw", "--quiet", "--netns", c.netns)
		wantSame(t, "addresses", addressesOf(c), []string{lab.Host4 + "/24", lab.Host6 + "/64"})
		wantOutside(t, c)
		wantNames(t, h, c, podmanResolver)
		wantPodmanPorts(t, h, c)
		// The gateway is the real one.
		wantNobody(t, c.Namespace, "tcp", join(lab.Router4, 7001))
		if h.original {
			return
		}
		// The host's own address is the container's; this one stands for it.
		wantCall(t, c.Namespace, "tcp", join(podmanHost, 7001), "host "+lab.Host4)
		wantNobody(t, c.Namespace, "tcp", join(lab.Host4, 7001))
	})
}

// wantPodmanPorts checks the published ports of TestPastaPodman.
func wantPodmanPorts(t *testing.T, h *host, c *container) {
	t.Helper()
	for _, port := range []int{80, 81, 82} {
		serveName(t, c.Namespace, "tcp", join("", port), "port "+join("", port))
		serveName(t, c.Namespace, "udp4", join("", port), "port "+join("", port))
		serveName(t, c.Namespace, "udp6", join("", port), "port "+join("", port))
	}
	for _, f := range families {
		wantCall(t, h.Outside, "tcp", join(f.host, 8080), "port :80 "+f.outside)
		wantCall(t, h.Outside, "udp", join(f.host, 8080), "port :80 "+f.outside)
	}
	wantCall(t, h.Outside, "tcp", join(lab.Host4, 8081), "port :81 "+lab.Outside4)
	wantCall(t, h.Outside, "tcp", join(lab.Host4, 8082), "port :82 "+lab.Outside4)
	wantNobody(t, h.Outside, "tcp", join(lab.Host6, 8081))
	wantCall(t, h.Outside, "tcp", join(lab.Host4, 8083), refused)
	wantCall(t, h.Host, "tcp", join("127.0.0.1", 8083), "port :80 "+h.loopbackPeer(lab.Router4))
	wantCall(t, h.Host, "tcp", join("127.0.0.1", 8081), refused)
}

// loopbackPeer is the client's address that a server of the container sees when
// the client is on the host's loopback: the old program connects to the
// container's loopback, later ones only with --host-lo-to-ns-lo.
func (h *host) loopbackPeer(gateway string) string {
	if h.original {
		return "127.0.0.1"
	}
	return gateway
}

// TestPastaPodmanFails: the port is taken.
func TestPastaPodmanFails(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		e := h.engineer()
		c := e.container()
		serveName(t, h.Host, "tcp", ":5000", "host")
		r := combined(t, e.pasta("--config-net", "-t", "5000-5000:5000-5000", "--dns-forward", podmanResolver,
			"-u", "none", "-T", "none", "-U", "none", "--no-map-gw", "--quiet", "--netns", c.netns))
		if r.status != 1 {
			t.Errorf("status: got %d, want 1", r.status)
		}
		if h.original {
			wantContains(t, "message", r.output, "Failed to bind any port for '-t 5000-5000:5000-5000'")
			return
		}
		wantContains(t, "message", r.output, "Failed to bind port 5000 (Address already in use) for option '-t 5000-5000:5000-5000'")
	})
}

// TestPastaPodmanBridge is the network that all rootless containers of podman's
// bridge networks share. podman ends it by a signal.
func TestPastaPodmanBridge(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "dig")
		servers(t, h)
		e := h.engineer()
		c := e.container()
		path := filepath.Join(tmpDir(h.Lab), "rootless-netns-conn.pid")
		defer h.Host.Command("rm", "-f", path).Run()
		e.podman("--config-net", "--pid", path, "--dns-forward", podmanResolver, "-t", "none", "-u", "none", "-T", "none", "-U", "none",
			"--no-map-gw", "--quiet", "--netns", c.netns)
		pid := pidFile(t, path)
		if !runs(pid) {
			t.Fatalf("process %d does not run", pid)
		}
		wantOutside(t, c)
		wantNames(t, h, c, podmanResolver)
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		h.Eventually("the process is gone", func() bool { return !runs(pid) })
	})
}

// TestPastaBuildah: the network of a RUN step is named by its process.
func TestPastaBuildah(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "dig")
		servers(t, h)
		e := h.engineer()
		words := []string{"unshare", "--net"}
		if h.original { // It cannot open what belongs to a process with more rights.
			words = append(words, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
		}
		c := e.holdNetwork(e.command(words[0], append(words[1:], "cat")...))
		e.podman("--config-net", "--dns-forward", podmanResolver, "-t", "none", "-u", "none", "-T", "none", "-U", "none",
			"--no-map-gw", "--quiet", "--netns", "/proc/"+c.pid+"/ns/net")
		wantSame(t, "addresses", addressesOf(c), []string{lab.Host4 + "/24", lab.Host6 + "/64"})
		wantOutside(t, c)
		wantNames(t, h, c, podmanResolver)
	})
}

// rootlesskit are the options of rootlesskit 2 and 3, without what depends on
// its own.
var rootlesskit = []string{"--stderr", "--ns-ifname=tap0", "--mtu=65520", "--config-net", "--address=10.0.2.100", "--netmask=24",
	"--gateway=10.0.2.2", "--dns-forward=10.0.2.3"}

func TestPastaRootlesskit(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		tests := []struct {
			name    string
			options []string
			target  func(c *container) []string
		}{
			{"pid", []string{"--tcp-ports=auto", "--udp-ports=auto"}, byPID},
			{"namespaces", []string{"--tcp-ports=auto", "--udp-ports=auto"}, byNamespaces},
			{"no host loopback", []string{"--no-map-gw", "--tcp-ports=none", "--udp-ports=none"}, byPID},
			{"no ipv6", []string{"--no-map-gw", "--ipv4-only", "--tcp-ports=none", "--udp-ports=none"}, byPID},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				lab.NeedProgram(t, "dig")
				h := h.another(t)
				servers(t, h)
				c := h.container()
				args := slices.Concat(rootlesskit, tt.options)
				if r := combined(t, h.pasta("--host-lo-to-ns-lo", "--version")); r.status == 0 {
					args = append(args, "--host-lo-to-ns-lo")
				}
				h.attach(append(args, tt.target(c)...)...)
				checkRootlesskit(t, h, c, tt.options)
			})
		}
	})
}

// another is a host like h, for a test that runs beside h's.
func (h *host) another(t *testing.T) *host {
	if h.original {
		return newOriginalHost(t)
	}
	return newHost(t)
}

func byPID(c *container) []string { return []string{c.pid} }

func byNamespaces(c *container) []string {
	return []string{"--userns=/proc/" + c.pid + "/ns/user", "--netns=/proc/" + c.pid + "/ns/net"}
}

func checkRootlesskit(t *testing.T, h *host, c *container, options []string) {
	link := onlyLink(t, c)
	addresses, routes := []string{"10.0.2.100/24"}, []string{"0.0.0.0/0 via 10.0.2.2"}
	if !slices.Contains(options, "--ipv4-only") {
		addresses, routes = append(addresses, lab.Host6+"/64"), append(routes, "::/0 via "+lab.Router6)
		wantCall(t, c.Namespace, "tcp", join(lab.Outside6, 7000), "outside "+lab.Host6)
	}
	wantSame(t, "addresses", link.Addresses, addresses)
	wantSame(t, "routes", link.Routes, routes)
	if link.Name != "tap0" || link.MTU != 65520 || !link.Up {
		t.Errorf("interface: got %+v, want tap0, up, with an MTU of 65520", link)
	}
	wantCall(t, c.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
	wantNames(t, h, c, "10.0.2.3")
	if slices.Contains(options, "--no-map-gw") {
		wantNobody(t, c.Namespace, "tcp", join("10.0.2.2", 7001))
	} else {
		wantCall(t, c.Namespace, "tcp", join("10.0.2.2", 7001), "loopback 127.0.0.1")
	}
	if !slices.Contains(options, "--tcp-ports=auto") {
		return
	}
	// What begins to listen inside can be reached from then on.
	serveName(t, c.Namespace, "tcp", ":8000", "container")
	awaitCall(t, h.Outside, "tcp", join(lab.Host4, 8000), "container "+lab.Outside4)
	wantCall(t, h.Host, "tcp", join("127.0.0.1", 8000), "container 127.0.0.1")
}

// TestPastaSandbox is how sandboxes for other people's programs leave them
// nothing but a proxy on the host's loopback.
func TestPastaSandbox(t *testing.T) {
	t.Parallel()
	h := newHost(t) // The original of 2023 has no --splice-only.
	servers(t, h)
	args := []string{"-q", "-f", "--splice-only", "-T", "7001", "--"}
	proxy := h.pasta(append(args, h.ProgramArgs("connect", "127.0.0.1:7001")...)...).MustRun()
	wantText(t, "the proxy", proxy, "connected")
	other := h.pasta(append(args, h.ProgramArgs("connect", "127.0.0.1:7002", join(lab.Outside4, 7000), join(lab.Host4, 7001))...)...).MustRun()
	wantText(t, "everything else", other, "ECONNREFUSED\nENETUNREACH\nENETUNREACH")
	wantText(t, "interfaces", h.pasta(append(args, h.ProgramArgs("addresses")...)...).MustRun(), "lo 65536 true  127.0.0.1/8 ::1/128")
	wantText(t, "the status", statusText(h.pasta(append(args, "sh", "-c", "exit 37")...)), "exit status 37")
}

func statusText(c *lab.Cmd) string {
	if err := c.Run(); err != nil {
		return err.Error()
	}
	return ""
}
