package e2e

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"taproot/test/lab"
)

// others are the options that leave all ports alone but those of a test.
var others = []string{"-u", "none", "-T", "none", "-U", "none"}

// serveEchoes listens at some ports of a namespace, over TCP and UDP and at all
// addresses of both families, and answers each client with the port and the
// client's address.
func serveEchoes(t *testing.T, n *lab.Namespace, ports ...int) {
	t.Helper()
	for _, port := range ports {
		for _, network := range []string{"tcp", "udp4", "udp6"} {
			serveName(t, n, network, join("", port), fmt.Sprint(port))
		}
	}
}

// reached asks many ports at once and returns those that answer, each with
// what answers: "8080=80", or "8080" if that is the same.
func reached(n *lab.Namespace, network, host string, ports []int) []string {
	answers := make([]string, len(ports))
	var all sync.WaitGroup
	for i, port := range ports {
		all.Go(func() {
			name, _, ok := strings.Cut(insist(n, network, join(host, port)), " ")
			switch {
			case !ok:
			case name == fmt.Sprint(port):
				answers[i] = name
			default:
				answers[i] = fmt.Sprintf("%d=%s", port, name)
			}
		})
	}
	all.Wait()
	return slices.DeleteFunc(answers, func(s string) bool { return s == "" })
}

// TestPastaPorts has every form of a port specification. All ports of the
// container that are mentioned here listen; the host's are asked at addresses of
// the host.
func TestPastaPorts(t *testing.T) {
	inside := []int{80, 81, 82, 8080, 8081, 8082, 8083, 8084, 8085}
	outside := []int{8080, 8081, 8082, 8083, 8084, 8085, 9080, 9081, 9082}
	const v4, v6, lo = lab.Host4, lab.Host6, "127.0.0.1"
	const young = "does not know the form"
	tests := []struct {
		spec  string            // words
		want  map[string]string // address of the host: ports that answer
		lacks string
	}{
		{"8080", map[string]string{v4: "8080", v6: "8080", lo: "8080"}, ""},
		{"none", map[string]string{v4: "", v6: "", lo: ""}, ""},
		{"8080:80", map[string]string{v4: "8080=80", v6: "8080=80"}, ""},
		{"8080,8083", map[string]string{v4: "8080 8083", v6: "8080 8083"}, ""},
		{"8080:80,8083", map[string]string{v4: "8080=80 8083"}, ""},
		{"8080-8082", map[string]string{v4: "8080 8081 8082", v6: "8080 8081 8082"}, ""},
		{"8080-8082:80-82", map[string]string{v4: "8080=80 8081=81 8082=82", v6: "8080=80 8081=81 8082=82"}, ""},
		{"8080-8080:80-80", map[string]string{v4: "8080=80"}, ""},
		{v4 + "/8080:80", map[string]string{v4: "8080=80", v6: "", lo: ""}, ""},
		{lo + "/8080", map[string]string{v4: "", v6: "", lo: "8080"}, ""},
		{v6 + "/8080", map[string]string{v4: "", v6: "8080", lo: ""}, ""},
		{"[" + v6 + "]/8080", map[string]string{v4: "", v6: "8080", lo: ""}, young},
		{"0.0.0.0/8080", map[string]string{v4: "8080", v6: "", lo: "8080"}, ""},
		{"::/8080", map[string]string{v6: "8080"}, ""},
		{"%eth0/8080", map[string]string{v4: "8080", v6: "8080"}, young},
		{"%lo/8080", map[string]string{lo: "8080"}, young},
		{v4 + "%eth0/8080:80", map[string]string{v4: "8080=80", v6: ""}, ""},
		{"8080-8085,~8082-8083", map[string]string{v4: "8080 8081 8084 8085"}, ""},
		{"~8082,8080-8083", map[string]string{v4: "8080 8081 8083"}, ""},
		{v4 + "/8080-8083,~8081", map[string]string{v4: "8080 8082 8083", v6: ""}, ""},
		{"8080 8083:80", map[string]string{v4: "8080 8083=80"}, ""},
		{v4 + "/8080 " + lo + "/8081", map[string]string{v4: "8080", lo: "8081"}, ""},
		{"8080-8082:127.0.0.1/80-82", map[string]string{lo: "8080=80 8081=81 8082=82"}, young},
		{"8080:" + v4, map[string]string{v4: "8080"}, young},
		{"8080,all", map[string]string{v4: "8080"}, young},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		h.Host.Sysctl("net/ipv4/ip_local_port_range", "1024 64999") // so that all is little
		e := h.engineer()
		for _, tt := range tests {
			if h.lacking(tt.lacks) {
				continue
			}
			for _, protocol := range []struct{ network, option string }{{"tcp", "-t"}, {"udp", "-u"}} {
				t.Run(protocol.network+" "+tt.spec, func(t *testing.T) {
					e := &engineer{host: h.with(t), pid: e.pid}
					c := e.container()
					serveEchoes(t, c.Namespace, inside...)
					args := []string{"--config-net", "-q", "-T", "none", "-U", "none"}
					for _, word := range strings.Fields(tt.spec) {
						args = append(args, protocol.option, word)
					}
					args = append(args, map[string]string{"tcp": "-u", "udp": "-t"}[protocol.network], "none")
					e.attach(append(args, "--netns", c.netns)...)
					e.wake(c)
					for at, want := range tt.want {
						from := h.Outside
						if at == lo {
							from = h.Host
						}
						lab.Eventually(t, fmt.Sprintf("%s %s: %q", protocol.network, at, want), func() bool {
							got := strings.Join(reached(from, protocol.network, at, outside), " ")
							return got == want
						})
					}
					e.remove(c.netns)
					e.Eventually("the ports are free", func() bool { return canBind(h.Host, protocol.network, 8080) })
				})
			}
		}
	})
}

// TestPastaPortsAll publishes every port that can be had.
func TestPastaPortsAll(t *testing.T) {
	t.Parallel()
	h := newHost(t) // The original of 2023 has no "all".
	h.Host.Sysctl("net/ipv4/ip_local_port_range", "1500 65000")
	h.Host.Sysctl("net/ipv4/ip_unprivileged_port_start", "1000")
	c := h.container()
	serveName(t, h.Host, "tcp", join("", 1111), "host")
	serveEchoes(t, c.Namespace, 999, 1000, 1111, 1234, 1499, 1500, 65000, 65001, 65535)
	h.attach(append(append([]string{"--config-net", "-q", "-t", "all,~1234"}, others...), c.pid)...)
	got := reached(h.Outside, "tcp", lab.Host4, []int{999, 1000, 1111, 1234, 1499, 1500, 65000, 65001, 65535})
	wantSame(t, "ports", got, []string{"1000", "1111=host", "1499", "65001", "65535"})
}

// TestPastaBadPorts: what is no port specification, or conflicts.
func TestPastaBadPorts(t *testing.T) {
	tests := []struct {
		args  string
		want  string // part of the message; "" for any
		lacks string
	}{
		{"-t nonsense", "Invalid port specifier nonsense", ""},
		{"-t 0", "", "takes it"},
		{"-t 65536", "Invalid port specifier 65536", ""},
		{"-t 99999999999999999999", "Invalid port specifier 99999999999999999999", ""},
		{"-t 8080-", "Invalid port specifier 8080-", ""},
		{"-t -8080", "Invalid port specifier -8080", ""},
		{"-t 8081-8080", "Invalid port specifier 8081-8080", ""},
		{"-t 8080:", "Invalid port specifier 8080:", ""},
		{"-t :80", "Invalid port specifier :80", ""},
		{"-t 8080:70000", "Invalid port specifier 8080:70000", ""},
		{"-t 8080-8082:80-81", "Invalid port specifier 8080-8082:80-81", ""},
		{"-t 8080-8080:80-80:1", "Invalid port specifier 8080-8080:80-80:1", ""},
		{"-t ,8080", "Invalid port specifier ,8080", ""},
		{"-t 8080,,8081", "Invalid port specifier 8080,,8081", ""},
		{"-t 8080,", "Invalid port specifier 8080,", ""},
		{"-t ~", "Invalid port specifier ~", ""},
		{"-t ~8080:80", "Invalid port specifier ~8080:80", ""},
		{"-t 192.0.2/8080", "Invalid port specifier 192.0.2/8080", ""},
		{"-t host.example/8080", "Invalid port specifier host.example/8080", ""},
		{"-t 192.0.2.2%/8080", "Invalid port specifier 192.0.2.2%/8080", "takes it"},
		{"-t 192.0.2.2%a-name-too-long-for-linux/8080", "Invalid port specifier 192.0.2.2%a-name-too-long-for-linux/8080", ""},
		{"-t none,8080", "", ""},
		{"-t none -t 8080", "", ""},
		{"-t 8080 -t none", "", ""},
		{"-t auto -t none", "", "takes it"},
		{"-u 192.0.2/8080", "Invalid port specifier 192.0.2/8080", ""},
		{"-T 192.0.2.2/8080", "", ""},
		{"-U 192.0.2.2/8080", "", ""},
		{"-T 8080-8081:80", "Invalid port specifier 8080-8081:80", ""},
		{"-t 192.0.2.77/8080", "8080", ""},
		{"-t 80", "80", ""},
		{"-t 192.0.2.2%nosuch0/8080", "", ""},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		c := h.container()
		for _, tt := range tests {
			t.Run(tt.args, func(t *testing.T) {
				h := h.with(t)
				if h.lacking(tt.lacks) {
					return
				}
				r := combined(t, h.pasta(append(append([]string{"--config-net", "-q"}, strings.Fields(tt.args)...), c.pid)...))
				if r.status != 1 {
					t.Errorf("status: got %d, want 1; output %q", r.status, r.output)
				}
				if h.original { // Its words differ from year to year.
					return
				}
				wantContains(t, "message", r.output, tt.want)
				if links := c.Links(); len(links) > 0 {
					t.Errorf("left behind in the container: %+v", links)
				}
			})
		}
	})
}

// TestPastaPortTaken: an explicit port that somebody has is an error; one of
// many that are only not excluded is not.
func TestPastaPortTaken(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		// The old program takes 49152 for the first ephemeral port.
		h.Host.Sysctl("net/ipv4/ip_local_port_range", "1100 49000")
		serveName(t, h.Host, "tcp", join("", 5000), "host")
		serveName(t, h.Host, "udp4", join("", 5000), "host")
		serveName(t, h.Host, "udp6", join("", 5000), "host")
		serveName(t, h.Host, "tcp", join("", 49110), "host")
		tests := []struct {
			args, want string
			lacks      string
		}{
			{"-t 5000", "Failed to bind port 5000 (Address already in use) for option '-t 5000'", "other words"},
			{"-u 5000", "Failed to bind port 5000 (Address already in use) for option '-u 5000'", "other words"},
			{"-t 4999-5001", "Failed to bind port 5000 (Address already in use) for option '-t 4999-5001'", "is content with one of the range"},
			{"-t 192.0.2.2/5000:80", "Failed to bind port 5000 (Address already in use) for option '-t 192.0.2.2/5000:80'", "other words"},
			{"-t 5000", "", ""},
			{"-u 5000", "", ""},
			{"-t 80", "Failed to bind port 80 (Permission denied) for option '-t 80'", "other words"},
			{"-t 192.0.2.77/8080", "Failed to bind port 8080 (Cannot assign requested address)", "other words"},
		}
		for _, tt := range tests {
			t.Run(tt.args, func(t *testing.T) {
				h := h.with(t)
				if h.lacking(tt.lacks) {
					return
				}
				c := h.container()
				r := combined(t, h.pasta(append(append([]string{"-q"}, strings.Fields(tt.args)...), c.pid)...))
				if r.status != 1 {
					t.Errorf("status: got %d, want 1; output %q", r.status, r.output)
				}
				wantContains(t, "message", r.output, tt.want)
			})
		}
		c := h.container()
		serveEchoes(t, c.Namespace, 49100, 49101, 49110, 49151, 49152)
		h.attach(append(append([]string{"--config-net", "-t", "~1-49100,~49152-65535"}, others...), c.pid)...)
		got := reached(h.Outside, "tcp", lab.Host4, []int{49100, 49101, 49110, 49151, 49152})
		wantSame(t, "ports", got, []string{"49101", "49110=host", "49151"})
	})
}

// TestPastaAuto: ports appear and disappear as those of the container do. The
// old program does so for TCP alone, not for what listened before it came, and
// only where -T is left alone.
func TestPastaAuto(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		c := h.container()
		networks := []string{"tcp", "udp"}
		if h.original {
			networks = networks[:1]
			h.attach("--config-net", c.pid)
			h.wake(c)
		} else {
			serveName(t, c.Namespace, "tcp", ":8001", "before")
			h.attach("--config-net", "-t", "auto", "-u", "auto", "-T", "none", "-U", "none", c.pid)
			awaitCall(t, h.Outside, "tcp", join(lab.Host4, 8001), "before "+lab.Outside4)
		}
		var open []io.Closer
		for _, network := range []string{"tcp", "udp4", "udp6"} {
			open = append(open, serveName(t, c.Namespace, network, ":8002", "after"))
		}
		for _, network := range networks {
			for _, f := range families {
				awaitCall(t, h.Outside, network, join(f.host, 8002), "after "+f.outside)
			}
		}
		for _, server := range open {
			server.Close()
		}
		for _, network := range networks {
			awaitCall(t, h.Outside, network, join(lab.Host4, 8002), refused)
			h.Eventually(network+" port free", func() bool { return canBind(h.Host, network, 8002) })
		}
		if !h.original {
			wantCall(t, h.Outside, "tcp", join(lab.Host4, 8001), "before "+lab.Outside4)
		}
	})
}

// canBind reports whether a port of a namespace is free.
func canBind(n *lab.Namespace, network string, port int) bool {
	return n.Do(func() error {
		if network == "udp" {
			conn, err := net.ListenPacket(network, join("", port))
			if err == nil {
				conn.Close()
			}
			return err
		}
		listener, err := net.Listen(network, join("", port))
		if err == nil {
			listener.Close()
		}
		return err
	}) == nil
}

// TestPastaAutoLimited: only some ports are taken from those that listen.
func TestPastaAutoLimited(t *testing.T) {
	t.Parallel()
	tests := []struct {
		spec  string
		want  []string // from outside
		local []string // from the host's loopback, IPv6
	}{
		{"8000-8002,auto", []string{"8000", "8002"}, []string{"8000", "8002"}},
		{"auto,~8002", []string{"8000", "8003"}, []string{"8000", "8003"}},
		{"::1/auto", nil, []string{"8000", "8002", "8003"}},
	}
	for _, tt := range tests {
		t.Run(tt.spec, func(t *testing.T) {
			t.Parallel()
			h := newHost(t) // The original of 2023 has none of these.
			c := h.container()
			serveEchoes(t, c.Namespace, 8000, 8002, 8003)
			h.attach(append(append([]string{"--config-net", "-t", tt.spec}, others...), c.pid)...)
			all := []int{8000, 8001, 8002, 8003}
			lab.Eventually(t, "the ports", func() bool {
				return slices.Equal(reached(h.Host, "tcp", "::1", all), tt.local) && slices.Equal(reached(h.Outside, "tcp", lab.Host4, all), tt.want)
			})
		})
	}
}

// TestPastaFollowsTCP: without -u, UDP ports are those of -t. The old program
// overlooks UDP ports altogether.
func TestPastaFollowsTCP(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.container()
	serveEchoes(t, c.Namespace, 8080)
	h.attach("--config-net", "-t", "8080", "-T", "none", "-U", "none", c.pid)
	wantCall(t, h.Outside, "tcp", join(lab.Host4, 8080), "8080 "+lab.Outside4)
	awaitCall(t, h.Outside, "udp", join(lab.Host4, 8080), "8080 "+lab.Outside4)
}
