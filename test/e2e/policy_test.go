package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"taproot/test/lab"
)

// denied is what connect(2) says to an ICMP "administratively prohibited" of
// each family (3/13, 1/1).
var denied = map[string]string{"ipv4": "EHOSTUNREACH", "ipv6": "EACCES"}

func TestHostLoopback(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			l := newLab(t)
			open := port(l.Host.Listen("tcp", join(f.loopback, 0)).Addr())
			other := port(l.Host.Listen("tcp", join(f.loopback, 0)).Addr())
			datagrams := serveUDPEcho(t, l.Host, join(f.loopback, 0))
			opened := fmt.Sprintf("--host-loopback=%d,%d", open, datagrams)
			tests := []struct {
				name    string
				options []string
				port    int
				want    string
			}{
				{"default", nil, open, denied[f.name]},
				{"opened", []string{opened}, open, "connected"},
				{"another port", []string{opened}, other, denied[f.name]},
				{"all", []string{"--host-loopback=all"}, other, "connected"},
				{"nobody listens", []string{"--host-loopback=1"}, 1, "ECONNREFUSED"},
			}
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					got := guestProgram(l.With(t), tt.options, "connect", join(f.gateway, tt.port)).MustRun()
					wantText(t, "connect", got, tt.want)
				})
			}
			t.Run("udp", func(t *testing.T) {
				l := l.With(t)
				got := guestProgram(l, []string{opened}, "udp", join(f.gateway, datagrams), "100").MustRun()
				wantText(t, "sizes echoed", got, "100")
				got = guestProgram(l, nil, "udperror", join(f.gateway, datagrams)).MustRun()
				wantText(t, "closed", got, denied[f.name])
			})
		})
	}
}

// TestHostAddresses: what listens on the host's own addresses is as private as
// what listens on its loopback.
func TestHostAddresses(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			l := newLab(t)
			port := port(l.Host.Listen("tcp", join(f.host, 0)).Addr())
			l = l.With(t)
			got := guestProgram(l, nil, "connect", join(f.host, port)).MustRun()
			wantText(t, "default", got, denied[f.name])
			got = guestProgram(l, []string{fmt.Sprintf("--allow-host=%d", port)}, "connect", join(f.host, port)).MustRun()
			wantText(t, "allowed", got, "connected")
		})
	}
}

// TestNewHostAddress gives the host an address while a guest runs.
func TestNewHostAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := newShell(t, l)
	l.Host.Addresses(lab.HostInterface, "192.0.2.77/24")
	port := port(l.Host.Listen("tcp", "192.0.2.77:0").Addr())
	l.Eventually("the new address is denied", func() bool {
		return s.must(program(l, "connect", join("192.0.2.77", port))) == denied["ipv4"]+"\n"
	})
}

func TestLinkLocal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tests := []struct {
		name, address, family string
		needs                 []lab.Feature
	}{
		{"metadata ipv4", lab.Metadata4, "ipv4", nil},
		{"metadata ipv6", lab.Metadata6, "ipv6", []lab.Feature{lab.IPv6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lab.Need(t, tt.needs...)
			l := l.With(t)
			port := port(l.Outside.Listen("tcp", join(tt.address, 0)).Addr())
			got := guestProgram(l, nil, "connect", join(tt.address, port)).MustRun()
			wantText(t, "default", got, denied[tt.family])
			got = guestProgram(l, []string{"--allow-link-local"}, "connect", join(tt.address, port)).MustRun()
			wantText(t, "allowed", got, "connected")
		})
	}
}

// TestNeverAllowed: no option opens these. Where the guest's own kernel says
// no, that is as good.
func TestNeverAllowed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	port := port(l.Host.Listen("tcp", ":0").Addr())
	s := newShell(t, l, "--allow-host=all", "--allow-link-local")
	s.must("echo 1 >/proc/sys/net/ipv4/tcp_syn_retries")
	addresses := []string{"240.0.0.1", "255.255.255.255", "224.0.0.1", "0.1.2.3"}
	if lab.IPv6.Available() {
		addresses = append(addresses, "ff02::1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1")
	}
	var targets []string
	for _, address := range addresses {
		targets = append(targets, join(address, port))
	}
	got := s.must(program(l, "connect", targets...))
	t.Logf("%v: %q", targets, got)
	if strings.Contains(got, "connected") {
		t.Errorf("connect to %v: got %q, want no connection", targets, got)
	}
}

// TestRebinding: names that map to what is denied open nothing, although the
// answers pass (docs/decisions/035-dns-answers.md).
func TestRebinding(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	serveDNS(t, l.Outside, lab.Outside4, "outside")
	port := port(l.Host.Listen("tcp", ":0").Addr())
	l.Host.Addresses("lo", lab.Metadata4+"/32") // nearer than the outside's
	addresses := []string{lab.Metadata4, lab.Host4, gateway4, resolver4, "192.0.2.77", lab.Outside4}
	want := strings.Repeat(denied["ipv4"]+"\n", 4) + "EHOSTUNREACH\nECONNREFUSED"
	var targets []string
	for _, address := range addresses {
		targets = append(targets, join(strings.ReplaceAll(address, ".", "-")+"."+rebound, port))
	}
	wantText(t, "connect to "+strings.Join(targets, " "), guestProgram(l, nil, "connect", targets...).MustRun(), want)
	// The guest's own loopback, which is not the host's.
	got := guestProgram(l, nil, "connect", join("127-0-0-1."+rebound, port), join("0-0-0-0."+rebound, port)).MustRun()
	wantText(t, "connect to loopback", got, "ECONNREFUSED\nECONNREFUSED")
}

// TestSpoofed sends with a source address that the guest was not given.
func TestSpoofed(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"8.8.8.8", "10.0.2.77", gateway4, "192.0.2.2"} {
		t.Run(source, func(t *testing.T) {
			l := newLab(t)
			shell := newShell(t, l)
			conn := l.Outside.ListenPacket("udp", join(lab.Outside4, 0))
			got := make(chan string, 1000)
			go collect(conn, got)
			l.Eventually("the honest datagram", func() bool {
				shell.must(program(l, "spoof", source, conn.LocalAddr().String()))
				select {
				case first := <-got:
					if first != "honest" {
						t.Errorf("got %q, want only honest datagrams", first)
					}
					return true
				case <-time.After(time.Second):
					return false
				}
			})
		})
	}
}

// collect hands on what comes until the socket is closed.
func collect(conn net.PacketConn, got chan<- string) {
	b := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		got <- string(b[:n])
	}
}
