package e2e

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

// TestPastaHostLoopback: which addresses of the container's mean the host.
func TestPastaHostLoopback(t *testing.T) {
	tests := []struct {
		name    string
		options string
		want    map[string]string // address: who answers, "" for nobody
		lacks   string
	}{
		{"gateway", "", map[string]string{lab.Router4: "loopback 127.0.0.1", lab.Router6: "loopback ::1"}, ""},
		{"no gateway", "--no-map-gw", map[string]string{lab.Router4: "", lab.Router6: ""}, ""},
		{"other gateway", "-a 10.7.0.9 -n 24 -g 10.7.0.1", map[string]string{"10.7.0.1": "loopback 127.0.0.1"}, ""},
		{"another address", "--map-host-loopback 169.254.1.3 --map-host-loopback 2001:db8:9::9",
			map[string]string{"169.254.1.3": "loopback 127.0.0.1", "2001:db8:9::9": "loopback ::1", lab.Router4: "", lab.Router6: ""}, "came later"},
		{"none", "--map-host-loopback none", map[string]string{lab.Router4: "", lab.Router6: ""}, "came later"},
		{"the host's address", "--map-guest-addr " + podmanHost,
			map[string]string{podmanHost: "host " + lab.Host4, lab.Router4: "loopback 127.0.0.1"}, "came later"},
		{"the host's address in IPv6", "--map-guest-addr 2001:db8:9::2", map[string]string{"2001:db8:9::2": "host " + lab.Host6}, "came later"},
		{"no host's address", "--map-guest-addr none", map[string]string{podmanHost: ""}, "came later"},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		for _, network := range []string{"tcp", "udp"} {
			for _, at := range []string{"127.0.0.1", "::1"} {
				serveName(t, h.Host, network, join(at, 7001), "loopback")
			}
			for _, at := range []string{lab.Host4, lab.Host6} {
				serveName(t, h.Host, network, join(at, 7001), "host")
			}
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if h.lacking(tt.lacks) {
					return
				}
				h := h.with(t)
				c := h.container()
				args := append([]string{"--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none"}, strings.Fields(tt.options)...)
				h.attach(append(args, c.pid)...)
				for at, want := range tt.want {
					for _, network := range []string{"tcp", "udp"} {
						if want == "" {
							wantNobody(t, c.Namespace, network, join(at, 7001))
						} else if network+at != "udp"+lab.Router6 || !h.original { // which forgets it
							wantCall(t, c.Namespace, network, join(at, 7001), want)
						}
					}
				}
			})
		}
	})
}

// TestPastaInbound: whom a server in the container sees.
func TestPastaInbound(t *testing.T) {
	tests := []struct {
		name    string
		options string
		from    string // host or outside
		to      string
		want    string
		lacks   string
	}{
		{"remote", "", "outside", lab.Host4, lab.Outside4, ""},
		{"remote, IPv6", "", "outside", lab.Host6, lab.Outside6, ""},
		{"loopback", "", "host", "127.0.0.1", lab.Router4, "connects to the container's loopback"},
		{"loopback, IPv6", "", "host", "::1", lab.Router6, "connects to the container's loopback"},
		{"loopback to loopback", "--host-lo-to-ns-lo", "host", "127.0.0.1", "127.0.0.1", "does so without the option"},
		{"loopback to loopback, IPv6", "--host-lo-to-ns-lo", "host", "::1", "::1", "does so without the option"},
		{"host's own address", "", "host", lab.Host4, lab.Router4, ""},
		{"remote with the option", "--host-lo-to-ns-lo", "outside", lab.Host4, lab.Outside4, "does so without the option"},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if h.lacking(tt.lacks) {
					return
				}
				h := h.with(t)
				e := h.engineer()
				c := e.container()
				serveEchoes(t, c.Namespace, 80)
				args := append([]string{"--config-net", "-t", "8080:80", "-u", "8080:80", "-T", "none", "-U", "none"}, strings.Fields(tt.options)...)
				e.attach(append(args, "--netns", c.netns)...)
				e.wake(c)
				from := map[string]*lab.Namespace{"host": h.Host, "outside": h.Outside}[tt.from]
				for _, network := range []string{"tcp", "udp"} {
					wantCall(t, from, network, join(tt.to, 8080), "80 "+tt.want)
				}
				e.remove(c.netns)
				h.awaitFree(8080)
			})
		}
	})
}

// TestPastaOriginalLoopback is what the old program does without being asked:
// rootless Docker relies on it for -p 127.0.0.1:..., and asks later ones for it
// (TestPastaInbound).
func TestPastaOriginalLoopback(t *testing.T) {
	t.Parallel()
	h := newOriginalHost(t)
	c := h.container()
	serveName(t, c.Namespace, "tcp", ":80", "80")
	h.attach(append(append([]string{"--config-net", "-t", "8080:80"}, others...), c.pid)...)
	wantCall(t, h.Host, "tcp", "127.0.0.1:8080", "80 127.0.0.1")
	wantCall(t, h.Host, "tcp", "[::1]:8080", "80 ::1")
}

// TestPastaOutwardPorts: ports of the host's loopback on the container's.
func TestPastaOutwardPorts(t *testing.T) {
	tests := []struct {
		tcp, udp string
		want     map[string]string // network and address: who answers, "" for nobody
		lacks    string
	}{
		{"7001", "none", map[string]string{
			"tcp 127.0.0.1:7001": "7001 127.0.0.1", "tcp [::1]:7001": "7001 ::1", "tcp 127.0.0.1:7002": "", "udp 127.0.0.1:7001": ""}, ""},
		{"none", "7001", map[string]string{
			"udp 127.0.0.1:7001": "7001 127.0.0.1", "udp [::1]:7001": "7001 ::1", "udp 127.0.0.1:7002": "", "tcp 127.0.0.1:7001": ""}, ""},
		{"80:7001", "53:7002", map[string]string{
			"tcp 127.0.0.1:80": "7001 127.0.0.1", "tcp 127.0.0.1:7001": "", "udp 127.0.0.1:53": "7002 127.0.0.1", "udp 127.0.0.1:7002": ""}, ""},
		{"81-82:7001-7002", "none", map[string]string{
			"tcp 127.0.0.1:81": "7001 127.0.0.1", "tcp [::1]:82": "7002 ::1"}, ""},
		{"none", "none", map[string]string{"tcp 127.0.0.1:7001": "", "udp 127.0.0.1:7001": ""}, ""},
		{"auto", "none", map[string]string{"tcp 127.0.0.1:7001": "7001 127.0.0.1", "tcp 127.0.0.1:7002": "7002 127.0.0.1"}, "not always within seconds"},
		{"none", "auto", map[string]string{"udp 127.0.0.1:7001": "7001 127.0.0.1", "udp 127.0.0.1:7002": "7002 127.0.0.1"}, "not for UDP"},
	}
	bothPastas(t, func(t *testing.T, h *host) {
		serveEchoes(t, h.Host, 7001, 7002)
		for _, tt := range tests {
			t.Run(tt.tcp+" "+tt.udp, func(t *testing.T) {
				if h.lacking(tt.lacks) {
					return
				}
				h := h.with(t)
				c := h.container()
				h.attach("--config-net", "-t", "none", "-u", "none", "-T", tt.tcp, "-U", tt.udp, c.pid)
				for at, want := range tt.want {
					network, address, _ := strings.Cut(at, " ")
					if want == "" {
						wantNobody(t, c.Namespace, network, address)
					} else {
						awaitCall(t, c.Namespace, network, address, want)
					}
				}
			})
		}
	})
}

// TestPastaOutwardAuto: what begins to listen on the host can be reached from
// then on, until it ends.
func TestPastaOutwardAuto(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.container()
	h.attach("--config-net", "-q", c.pid) // auto is the default of all four
	wantNobody(t, c.Namespace, "tcp", "127.0.0.1:7003")
	server := serveName(t, h.Host, "tcp", "127.0.0.1:7003", "late")
	awaitCall(t, c.Namespace, "tcp", "127.0.0.1:7003", "late 127.0.0.1")
	server.Close()
	awaitCall(t, c.Namespace, "tcp", "127.0.0.1:7003", refused)
	// What the container has itself is its own.
	serveName(t, c.Namespace, "tcp", "127.0.0.1:7004", "container")
	serveName(t, h.Host, "tcp", lab.Host4+":7004", "host")
	awaitCall(t, h.Host, "tcp", "127.0.0.1:7004", refused)
	wantCall(t, c.Namespace, "tcp", "127.0.0.1:7004", "container 127.0.0.1")
}

// TestPastaCommandPorts publishes ports of a command, both ways.
func TestPastaCommandPorts(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		serveName(t, h.Outside, "tcp", ":7000", "outside")
		serveName(t, h.Host, "tcp", "127.0.0.1:7001", "loopback")
		c := h.pasta("--config-net", "-t", "8080:80", "-u", "8080:80", "-T", "7001", "-U", "none", "--", "sleep", "1000").MustStart()
		inside := &container{Namespace: h.NamespaceOf(process(t, h.Lab, "sleep 1000").PID, "command")}
		awaitCall(t, inside.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
		h.wake(inside)
		serveEchoes(t, inside.Namespace, 80)
		for _, f := range families {
			wantCall(t, h.Outside, "tcp", join(f.host, 8080), "80 "+f.outside)
			wantCall(t, h.Outside, "udp", join(f.host, 8080), "80 "+f.outside)
		}
		awaitCall(t, inside.Namespace, "tcp", "127.0.0.1:7001", "loopback 127.0.0.1")
		if err := syscall.Kill(process(t, h.Lab, "sleep 1000").PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.Wait()
		h.Eventually("the ports are free", func() bool { return canBind(h.Host, "tcp", 8080) && canBind(h.Host, "udp", 8080) })
	})
}

// TestPastaEngineKilled: another engine takes over the container's device, and
// the ports.
func TestPastaEngineKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t) // The original is one process.
	serveName(t, h.Outside, "tcp", ":7000", "outside")
	serveName(t, h.Host, "tcp", "127.0.0.1:7001", "loopback")
	c := h.container()
	serveEchoes(t, c.Namespace, 80)
	h.attach("--config-net", "-t", "8080:80", "-u", "8080:80", "-T", "7001", "-U", "none", c.pid)
	for range 3 {
		old := process(t, h.Lab, engineName)
		if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.Eventually("another engine", func() bool { return process(t, h.Lab, engineName).PID != old.PID })
		awaitCall(t, c.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
		awaitCall(t, c.Namespace, "tcp", "127.0.0.1:7001", "loopback 127.0.0.1")
		awaitCall(t, h.Outside, "tcp", join(lab.Host4, 8080), "80 "+lab.Outside4)
		awaitCall(t, h.Outside, "udp", join(lab.Host4, 8080), "80 "+lab.Outside4)
	}
}

// TestPastaErrors: what a container hears of servers that do not answer. The
// old program passes nothing of it on.
func TestPastaErrors(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.container()
	h.attach("--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none", c.pid)
	for _, f := range families {
		for _, network := range []string{"tcp", "udp"} {
			wantCall(t, c.Namespace, network, join(f.outside, 7009), refused)
		}
	}
}

func TestPastaEcho(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		lab.NeedProgram(t, "ping")
		c := h.container()
		h.attach("--config-net", c.pid)
		for _, at := range []string{lab.Outside4, lab.Outside6, lab.Router4, lab.Router6} {
			out := c.Command("ping", "-c", "2", "-i", "0.2", "-w", "40", at).MustRun()
			wantContains(t, "ping "+at, out, " 2 received")
		}
		off := h.container()
		h.attach("--config-net", "--no-icmp", off.pid)
		if err := off.Command("ping", "-c", "1", "-W", "1", lab.Outside4).Run(); err == nil {
			t.Error("ping with --no-icmp: got an answer, want none")
		}
	})
}

// TestPastaSwitches turn off parts.
func TestPastaSwitches(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		serveName(t, h.Outside, "tcp", ":7000", "outside")
		serveName(t, h.Outside, "udp4", ":7000", "outside")
		tests := []struct{ option, tcp, udp string }{
			{"--no-tcp", "", "outside " + lab.Host4},
			{"--no-udp", "outside " + lab.Host4, ""},
		}
		for _, tt := range tests {
			c := h.container()
			h.attach("--config-net", tt.option, c.pid)
			for network, want := range map[string]string{"tcp": tt.tcp, "udp": tt.udp} {
				if want == "" {
					wantNobody(t, c.Namespace, network, join(lab.Outside4, 7000))
				} else {
					wantCall(t, c.Namespace, network, join(lab.Outside4, 7000), want)
				}
			}
		}
	})
}

// TestPastaOutbound: the address and interface of the host's side.
func TestPastaOutbound(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		serveName(t, h.Outside, "tcp", ":7000", "outside")
		serveName(t, h.Outside, "udp", lab.Outside4+":7000", "outside")
		h.Host.Addresses(lab.HostInterface, "192.0.2.77/24", "2001:db8:0:1::77/64")
		c := h.container()
		h.attach("--config-net", "-o", "192.0.2.77", "-o", "2001:db8:0:1::77", "--outbound-if4", "eth0", "--outbound-if6", "eth0", c.pid)
		wantCall(t, c.Namespace, "tcp", join(lab.Outside4, 7000), "outside 192.0.2.77")
		wantCall(t, c.Namespace, "tcp", join(lab.Outside6, 7000), "outside 2001:db8:0:1::77")
		wantCall(t, c.Namespace, "udp", join(lab.Outside4, 7000), "outside 192.0.2.77")
	})
}

// TestPastaCapture reads the file that --pcap writes.
func TestPastaCapture(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		serveName(t, h.Outside, "tcp", ":7000", "outside")
		path := filepath.Join(tmpDir(h.Lab), "capture.pcap")
		defer os.Remove(path)
		c := h.container()
		h.attach("--config-net", "--pcap", path, c.pid)
		wantCall(t, c.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
		lab.Eventually(t, "both directions of the connection", func() bool {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return slices.Equal(capturedSYNs(t, b), []string{"SYN " + lab.Outside4, "SYN+ACK " + lab.Host4})
		})
	})
}

// capturedSYNs reads a capture file (the format of libpcap, link type
// Ethernet) and returns the first segments of IPv4 connections, each once and
// with its destination. A frame that is not all there yet ends it.
func capturedSYNs(t *testing.T, b []byte) []string {
	t.Helper()
	if len(b) < 24 {
		return nil
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if magic := order.Uint32(b); magic != 0xa1b2c3d4 && magic != 0xa1b23c4d {
		t.Fatalf("first word: got %#x, want that of a capture file", magic)
	}
	if link := order.Uint32(b[20:]); link != 1 {
		t.Fatalf("link type: got %d, want 1 (Ethernet)", link)
	}
	var found []string
	for b = b[24:]; len(b) >= 16; {
		size := int(order.Uint32(b[8:]))
		if len(b) < 16+size {
			break
		}
		frame := b[16 : 16+size]
		b = b[16+size:]
		if len(frame) < 14+20+14 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[14+9] != 6 {
			continue // neither IPv4 nor TCP
		}
		destination := net.IP(frame[14+16 : 14+20]).String()
		what := ""
		switch flags := frame[14+20+13]; {
		case flags&0x12 == 0x12:
			what = "SYN+ACK " + destination
		case flags&0x02 != 0:
			what = "SYN " + destination
		}
		if what != "" && !slices.Contains(found, what) { // or it was sent again
			found = append(found, what)
		}
	}
	return found
}
