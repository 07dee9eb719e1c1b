package callers

import (
	"fmt"
	"strings"
	"testing"

	"taproot/test/lab"
)

// TestPodman: a container that nobody has said anything about its network.
func TestPodman(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		out := w.run("", "cat /etc/resolv.conf /sys/class/net/tap0/mtu && "+w.fetch()).MustRun()
		wantContains(t, "container", out, "nameserver 10.0.2.3\n", "\n65520\n", greeting)
		w.wantCall(t, "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 3 -r 4 "+
			"--netns-type=path /run/user/1000/netns/netns-ID tap0")
		if lab.IPv6.Available() {
			out := w.run("", "curl -sS --max-time 40 -6 "+w.url("www.example.test")).MustRun()
			wantContains(t, "container over IPv6", out, greeting)
		}
	})
}

// TestPodmanOptions: what --network says is what the container gets.
func TestPodmanOptions(t *testing.T) {
	t.Parallel()
	const line = "cat /etc/resolv.conf /sys/class/net/tap0/mtu /proc/net/if_inet6 /proc/net/route; "
	eachPodman(t, func(t *testing.T, w *world) {
		out := w.run("--network=slirp4netns:cidr=10.7.0.0/24,mtu=1500,enable_ipv6=false,outbound_addr="+lab.Host4, line+w.fetch()).MustRun()
		// The gateway in /proc/net/route is in the byte order of the host.
		wantContains(t, "container", out, "nameserver 10.7.0.3\n", "\n1500\n", "\t0200070A\t", greeting)
		if strings.Contains(out, "fd00") {
			t.Errorf("container: got %q, want no IPv6", out)
		}
		w.wantCall(t, "--disable-host-loopback --mtu=1500 --enable-sandbox --enable-seccomp --cidr=10.7.0.0/24 --outbound-addr="+lab.Host4+
			" -c -e 3 -r 4 --netns-type=path /run/user/1000/netns/netns-ID tap0")
	})
}

// TestPodmanHostLoopback: closed, unless the user opens it.
func TestPodmanHostLoopback(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		private := serveWeb(t, w.Host)
		line := fmt.Sprintf("curl -sS --max-time 40 http://10.0.2.2:%d/", portOf(private.Addr()))
		c := w.run("", line).MustStart()
		if got := c.Status(); got != 7 { // "couldn't connect", at once
			t.Errorf("default: got status %d (%s), want curl's 7", got, c.Out())
		}
		out := w.run("--network=slirp4netns:allow_host_loopback=true", line).MustRun()
		wantContains(t, "allow_host_loopback", out, greeting)
	})
}

// handlers are the two ways of podman to publish ports.
var handlers = []struct {
	name, option string
	keepsAddress bool
}{
	{"slirp4netns", "--network=slirp4netns:port_handler=slirp4netns", true},
	{"rootlessport", "--network=slirp4netns", false},
}

// TestPodmanPublish: ports of containers.
func TestPodmanPublish(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		for _, h := range handlers {
			w.serve(h.name, h.option+" -p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80")
			for _, network := range []string{"tcp", "udp"} {
				// With --disable-host-loopback, which podman gives, the
				// original drops the answers to the host's loopback.
				if network == "tcp" || !w.original || !h.keepsAddress {
					wantPeer(t, w.Host, network, "127.0.0.1:8080")
				}
				if h.keepsAddress {
					wantPeer(t, w.Outside, network, lab.Host4+":8080", lab.Outside4)
					w.wantShortcut(t, lab.Host4+":8080")
				} else {
					wantPeer(t, w.Outside, network, lab.Host4+":8080")
				}
			}
			wantPeer(t, w.Host, "tcp", "127.0.0.1:8081")
			if peer, err := whoAmI(w.Outside, "tcp", lab.Host4+":8081"); err == nil {
				t.Errorf("%s: a port of the loopback from outside: got %v, want an error", h.name, peer)
			}
			w.podman("rm", "--force", "--time=0", h.name).MustRun()
			if peer, err := whoAmI(w.Host, "tcp", "127.0.0.1:8080"); err == nil {
				t.Errorf("%s: after the end of the container: got %v, want an error", h.name, peer)
			}
		}
		const want = "-c -e 3 -r 4 --api-socket /run/user/1000/libpod/tmp/ID.net --netns-type=path /run/user/1000/netns/netns-ID tap0\n"
		wantContains(t, "command lines of slirp4netns", strings.Join(w.calls(t), "\n"), want)
	})
}

// TestPodmanPortTaken: the caller says what the helper said.
func TestPodmanPortTaken(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		w.Host.Listen("tcp", "0.0.0.0:8080")
		c := w.run(handlers[0].option+" -p 8080:80", "true").MustStart()
		if got := c.Status(); got != 126 {
			t.Errorf("status: got %d, want podman's 126", got)
		}
		wantContains(t, "standard error", c.Err(), "slirp_add_hostfwd failed")
	})
}

// TestPodmanBadOption: what the helper says when it fails reaches the user.
func TestPodmanBadOption(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		c := w.run("--network=slirp4netns:mtu=65522", "true").MustStart()
		if got := c.Status(); got != 126 {
			t.Errorf("status: got %d, want podman's 126", got)
		}
		wantContains(t, "standard error", c.Err(), "slirp4netns failed", "65522")
	})
}

// TestPodmanRestart: stop and start again, at once and with the same port.
func TestPodmanRestart(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		for i, h := range handlers {
			port := 8080 + i
			w.serve(h.name, fmt.Sprintf("%s -p %d:80 -p %[2]d:80/udp", h.option, port))
			for range 3 {
				wantPeer(t, w.Host, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
				w.podman("stop", "--time=0", h.name).MustRun()
				w.podman("start", h.name).MustRun()
			}
			wantPeer(t, w.Outside, "udp", fmt.Sprintf("%s:%d", lab.Host4, port))
			w.podman("restart", "--time=0", h.name).MustRun()
			wantPeer(t, w.Host, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		}
	})
}

// TestPodmanTwo: two containers at once, each with its ports and its network.
func TestPodmanTwo(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		w.serve("one", handlers[0].option+" -p 8081:80")
		w.serve("two", handlers[0].option+" -p 8082:80")
		wantPeer(t, w.Host, "tcp", "127.0.0.1:8081", "10.0.2.2")
		wantPeer(t, w.Host, "tcp", "127.0.0.1:8082", "10.0.2.2")
		for _, name := range []string{"one", "two"} {
			out := w.podman("exec", name, "sh", "-c", w.fetch()).MustRun()
			wantContains(t, "container "+name, out, greeting)
		}
		w.podman("kill", "one").MustRun()
		wantPeer(t, w.Outside, "tcp", lab.Host4+":8082", lab.Outside4)
	})
}

// TestPodmanBridge: a network that podman makes itself has its way out through
// the same helper, which podman stops with the last container.
func TestPodmanBridge(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "/usr/lib/podman/netavark", "iptables")
	eachPodman(t, func(t *testing.T, w *world) {
		w.podman("network", "create", "--disable-dns", "bridge1").MustRun()
		c := w.run("--network=bridge1", "curl -sS --max-time 40 "+w.url(lab.Outside4))
		wantContains(t, "container", c.MustRun(), greeting)
		w.wantCall(t, "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -r 3 "+
			"--netns-type=path /run/user/1000/netns/rootless-netns-ID tap0")
		w.wantNothingLeft(t)
	})
}

// TestPodmanInfo: podman shows the version that the helper says.
func TestPodmanInfo(t *testing.T) {
	t.Parallel()
	eachPodman(t, func(t *testing.T, w *world) {
		out := w.podman("info", "--format", "{{.Host.Slirp4NetNS.Version}}").MustRun()
		if !strings.HasPrefix(out, "slirp4netns version ") {
			t.Errorf("version: got %q, want slirp4netns version X.Y.Z", out)
		}
		if ours := strings.Contains(out, "taproot"); ours == w.original {
			t.Errorf("version: got %q of the wrong program", out)
		}
	})
}
