package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"taproot/test/lab"
)

// newTraffic makes a target with a helper that offers both families, where
// there are both.
func (s slirp) newTraffic(t *testing.T, options ...string) *target {
	t.Helper()
	to := s.target(t)
	if lab.IPv6.Available() {
		options = append(options, "--enable-ipv6")
	}
	s.attach(t, to, options...)
	if lab.IPv6.Available() {
		to.wantIPv6(t)
	}
	return to
}

// TestSlirpOutbound: the outside, both families and protocols.
func TestSlirpOutbound(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.newTraffic(t)
		for _, f := range families {
			t.Run(f.name, func(t *testing.T) {
				lab.Need(t, f.needs...)
				s := s.with(t)
				server := serveTCP(t, s.Outside, echo)
				wantEcho(t, to.net, "tcp", join(f.outside, server), 300_000)
				datagrams := serveUDPEcho(t, s.Outside, join(f.outside, 0))
				wantEcho(t, to.net, "udp", join(f.outside, datagrams), 1400)
				closed := join(f.outside, 9)
				if got := to.dial(t, closed); got != "ECONNREFUSED" {
					t.Errorf("connect to a closed port: got %s, want ECONNREFUSED", got)
				}
				// No loopback here: an address of the host's is one like others.
				own := s.Host.Listen("tcp", join(f.host, 0))
				if got := to.connect(t, f.host, own.Addr()); got != "connected" {
					t.Errorf("connect to the host's address: got %s, want connected", got)
				}
			})
		}
	})
}

// TestSlirpHostLoopback: the gateway's address means the host's loopback, and
// its services see somebody on the loopback.
func TestSlirpHostLoopback(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.newTraffic(t)
		for _, f := range families {
			t.Run(f.name, func(t *testing.T) {
				lab.Need(t, f.needs...)
				s := s.with(t)
				listener := s.Host.Listen("tcp", join(f.loopback, 0))
				seen := acceptPeer(listener)
				if got := to.connect(t, f.gateway, listener.Addr()); got != "connected" {
					t.Fatalf("connect: got %s, want connected", got)
				}
				if got, ok := receive(t, seen); ok && got != netip.MustParseAddr(f.loopback) {
					t.Errorf("the server saw %v, want %s", got, f.loopback)
				}
				if got := to.dial(t, join(f.gateway, 9)); got != "ECONNREFUSED" {
					t.Errorf("connect to a closed port: got %s, want ECONNREFUSED", got)
				}
				datagrams := serveUDPEcho(t, s.Host, join(f.loopback, 0))
				wantEcho(t, to.net, "udp", join(f.gateway, datagrams), 1400)
			})
		}
	})
}

// TestSlirpNoHostLoopback: with --disable-host-loopback there is no way to the
// host's loopback, and that is known at once; other ways stay open.
func TestSlirpNoHostLoopback(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.newTraffic(t, "--disable-host-loopback")
		for _, f := range families {
			t.Run(f.name, func(t *testing.T) {
				lab.Need(t, f.needs...)
				s := s.with(t)
				listener := s.Host.Listen("tcp", join(f.loopback, 0))
				if got := to.connect(t, f.gateway, listener.Addr()); got != "ENETUNREACH" {
					t.Errorf("connect: got %s, want ENETUNREACH", got)
				}
				own := s.Host.Listen("tcp", join(f.host, 0))
				if got := to.connect(t, f.host, own.Addr()); got != "connected" {
					t.Errorf("connect to the host's address: got %s, want connected", got)
				}
				s.wantNoDatagram(t, to, f.loopback, f.gateway)
				dns := s.Outside.Listen("tcp", join(f.outside, 0))
				if got := to.connect(t, f.outside, dns.Addr()); got != "connected" {
					t.Errorf("connect outside: got %s, want connected", got)
				}
			})
		}
	})
}

// wantNoDatagram sends datagrams to an address of the gateway and then, as a
// sign that they had the time, to the host itself, and wants only the latter.
func (s slirp) wantNoDatagram(t *testing.T, to *target, loopback, gateway string) {
	t.Helper()
	private := s.Host.ListenPacket("udp", join(loopback, 0))
	got := make(chan string, 16)
	go collect(private, got)
	err := to.net.Do(func() error {
		conn, err := net.Dial("udp", join(gateway, port(private.LocalAddr())))
		if err != nil {
			return err
		}
		defer conn.Close()
		for range 3 {
			// ICMP may say no to the second.
			if _, err := io.WriteString(conn, "private"); err != nil {
				break
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	host := lab.Host4
	if strings.Contains(gateway, ":") {
		host = lab.Host6
	}
	wantEcho(t, to.net, "udp", join(host, serveUDPEcho(t, s.Host, join(host, 0))), 100)
	select {
	case text := <-got:
		t.Errorf("the host's loopback got %q, want nothing", text)
	default:
	}
}

// TestSlirpResolver: the resolver's address means the host's name server: at any
// port, as the original's manual has it. With libslirp 4.7 it is port 53 only.
func TestSlirpResolver(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		s.resolvers(t, lab.Outside4, lab.Outside6)
		to := s.newTraffic(t)
		for _, f := range families {
			t.Run(f.name, func(t *testing.T) {
				lab.Need(t, f.needs...)
				s := s.with(t)
				serveDNS(t, s.Outside, f.outside, f.name)
				listener := s.Outside.Listen("tcp", join(f.outside, 0))
				want := map[bool]string{true: "ENETUNREACH", false: "connected"}[s.original]
				if got := to.connect(t, f.resolver, listener.Addr()); got != want {
					t.Errorf("connect to another port: got %s, want %s", got, want)
				}
				if !s.original {
					if got := to.dial(t, join(f.resolver, 9)); got != "ECONNREFUSED" {
						t.Errorf("connect to a closed port: got %s, want ECONNREFUSED", got)
					}
					datagrams := serveUDPEcho(t, s.Outside, join(f.outside, 0))
					wantEcho(t, to.net, "udp", join(f.resolver, datagrams), 1400)
				}
				lab.NeedProgram(t, "dig")
				for _, transport := range []string{"+notcp", "+tcp"} {
					out := to.command(s, "dig", "@"+f.resolver, transport, "+short", "+tries=4", "+time=10", "TXT", "name.example.test").MustRun()
					wantText(t, "dig "+transport, out, fmt.Sprintf("%q", f.name))
				}
			})
		}
	})
}

// TestSlirpLocalResolver: a name server on the host's loopback answers, and is no
// way around --disable-host-loopback to what else listens there.
func TestSlirpLocalResolver(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	eachSlirp(t, func(t *testing.T, s slirp) {
		s.resolvers(t, "127.0.0.1")
		serveDNS(t, s.Host, "127.0.0.1", "local")
		private := s.Host.Listen("tcp", "127.0.0.1:0")
		to := s.newTraffic(t, "--disable-host-loopback")
		for _, transport := range []string{"+notcp", "+tcp"} {
			out := to.command(s, "dig", "@"+resolver4, transport, "+short", "+tries=4", "+time=10", "TXT", "name.example.test").MustRun()
			wantText(t, "dig "+transport, out, `"local"`)
		}
		if got := to.connect(t, resolver4, private.Addr()); got != "ENETUNREACH" {
			t.Errorf("connect to a private port: got %s, want ENETUNREACH", got)
		}
		s.wantNoDatagram(t, to, "127.0.0.1", resolver4)
	})
}

// TestSlirpResolverChanges: the host's resolv.conf is followed.
func TestSlirpResolverChanges(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	eachSlirp(t, func(t *testing.T, s slirp) { s.wantFollowed(t) })
}

// wantFollowed exchanges the host's name server, and wants the guest to get the
// answers of the new one.
func (s slirp) wantFollowed(t *testing.T, options ...string) {
	t.Helper()
	serveDNS(t, s.Outside, lab.Outside4, "first")
	serveDNS(t, s.Outside, lab.Second4, "second")
	to := s.newTraffic(t, options...)
	query := func() string {
		c := to.command(s, "dig", "@"+resolver4, "+short", "+tries=1", "+time=10", "TXT", "name.example.test")
		c.MustStart().Status()
		return strings.TrimSpace(c.Out())
	}
	s.Eventually("the first answers", func() bool { return query() == `"first"` })
	s.resolvers(t, lab.Second4)
	s.Eventually("the second answers", func() bool { return query() == `"second"` })
}

// TestSlirpNoResolver: with --disable-dns that address is one nobody has. Ours
// says so at once.
func TestSlirpNoResolver(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.newTraffic(t, "--disable-dns")
		listener := s.Outside.Listen("tcp", join(lab.Outside4, 0))
		if s.original {
			to.wantSilence(t, join(resolver4, port(listener.Addr())))
		} else if got := to.connect(t, resolver4, listener.Addr()); got != "ENETUNREACH" {
			t.Errorf("connect: got %s, want ENETUNREACH", got)
		}
	})
}

// TestSlirpSilence: nobody has the other addresses of the network.
func TestSlirpSilence(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.newTraffic(t)
		to.wantSilence(t, "10.0.2.77:80")
	})
}

// wantSilence connects in vain. Whether the kernel gives up because of the
// missing link address or of the missing answer is its own affair.
func (t *target) wantSilence(tb testing.TB, address string) {
	tb.Helper()
	t.net.Sysctl("net/ipv4/tcp_syn_retries", "1") // three seconds
	if got := t.dial(tb, address); got != "EHOSTUNREACH" && got != "ETIMEDOUT" {
		tb.Errorf("connect to %s: got %s, want EHOSTUNREACH or ETIMEDOUT", address, got)
	}
}

// TestSlirpPing: the helper itself answers for the two addresses it has.
func TestSlirpPing(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "ping")
	eachSlirp(t, func(t *testing.T, s slirp) {
		// The host lets nobody but its root make an ICMP socket. In a
		// laboratory with one id that is the user.
		s.Host.Sysctl("net/ipv4/ping_group_range", "0 0")
		to := s.newTraffic(t)
		ttl := "ttl=64" // as a router of Linux answers
		if s.original {
			ttl = "ttl=255"
		}
		for _, address := range []string{gateway4, resolver4} {
			out := to.command(s, "ping", "-n", "-c", "1", "-W", "40", address).MustRun()
			wantContains(t, "ping "+address, out, "1 received", ttl)
		}
		if lab.IPv6.Available() {
			out := to.command(s, "ping", "-n", "-c", "1", "-W", "40", gateway6).MustRun()
			wantContains(t, "ping "+gateway6, out, "1 received")
		}
	})
}

// TestSlirpPingOutside: further away with the host's leave.
func TestSlirpPingOutside(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "ping")
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.newTraffic(t)
		out := to.command(s, "ping", "-n", "-c", "1", "-W", "40", lab.Outside4).MustRun()
		wantContains(t, "ping", out, "1 received")
	})
}

// TestSlirpDHCP: the leases begin at .15.
func TestSlirpDHCP(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "udhcpc")
	eachSlirp(t, func(t *testing.T, s slirp) {
		script := s.WriteFile("lease.sh", leaseScript)
		s.Outside.Command("chmod", "755", script).MustRun()
		to := s.target(t)
		s.run(t, to.pid(), "tap0")
		to.net.SetUp("tap0")
		out := to.command(s, "udhcpc", "-i", "tap0", "-f", "-q", "-n", "-t", "13", "-s", script).MustRun()
		wantContains(t, "lease", out, "ip=10.0.2.15\n", "router="+gateway4+"\n", "dns="+resolver4+"\n", "subnet=255.255.255.0\n")
	})
}

// TestSlirpOutboundAddress: outgoing sockets are bound where the user says.
func TestSlirpOutboundAddress(t *testing.T) {
	t.Parallel()
	const own4, own6 = "192.0.2.77", "2001:db8:0:1::77"
	tests := []struct {
		name, options, target string
		want                  string // with spaces between several that are all right
		needs                 []lab.Feature
	}{
		{"ipv4", "--outbound-addr=" + own4, lab.Outside4, own4, nil},
		{"interface", "--outbound-addr=" + lab.HostInterface, lab.Outside4, lab.Host4, nil},
		{"ipv6", "--outbound-addr6=" + own6, lab.Outside6, own6, []lab.Feature{lab.IPv6}},
		{"ipv6 interface", "--outbound-addr6=" + lab.HostInterface, lab.Outside6, lab.Host6 + " " + own6, []lab.Feature{lab.IPv6}},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		s.Host.Addresses(lab.HostInterface, own4+"/24", own6+"/64")
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				lab.Need(t, tt.needs...)
				s := s.with(t)
				if s.original && tt.name == "ipv6 interface" {
					// It looks for the value of --outbound-addr.
					h := s.start(t, tt.options, s.target(t).pid(), "tap0")
					wantText(t, "ready descriptor", h.said(t), "")
					return
				}
				to := s.newTraffic(t, strings.Fields(tt.options)...)
				listener := s.Outside.Listen("tcp", join(tt.target, 0))
				seen := acceptPeer(listener)
				if got := to.connect(t, tt.target, listener.Addr()); got != "connected" {
					t.Fatalf("connect: got %s, want connected", got)
				}
				if got, ok := receive(t, seen); ok && !slices.Contains(strings.Fields(tt.want), got.String()) {
					t.Errorf("the server saw %v, want %s", got, tt.want)
				}
			})
		}
	})
}

// TestSlirpTwice: two guests of one user do not know of each other.
func TestSlirpTwice(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		server := join(lab.Outside4, serveTCP(t, s.Outside, echo))
		first, second := s.newTraffic(t), s.target(t)
		h := s.attach(t, second)
		wantEcho(t, first.net, "tcp", server, 1000)
		wantEcho(t, second.net, "tcp", server, 1000)
		h.stop(t)
		wantEcho(t, first.net, "tcp", server, 1000)
	})
}

// command is a command in the target's namespaces.
func (t *target) command(s slirp, words ...string) *lab.Cmd {
	in := []string{"--user=" + t.user(), "--net=" + t.network(), "--preserve-credentials", "--"}
	return s.session.Command("nsenter", append(in, words...)...)
}

// resolvers rewrites the host's resolv.conf.
func (s slirp) resolvers(t *testing.T, addresses ...string) {
	t.Helper()
	script := "printf 'nameserver %s\\n' " + strings.Join(addresses, " ") + " >/etc/resolv.conf"
	s.Host.Command("sh", "-c", script).MustRun()
}

// acceptPeer accepts one connection, closes it and tells whose it was.
func acceptPeer(listener net.Listener) <-chan netip.Addr {
	seen := make(chan netip.Addr, 1)
	go func() {
		defer close(seen)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		seen <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	}()
	return seen
}

// receive waits for what acceptPeer tells.
func receive(t *testing.T, seen <-chan netip.Addr) (netip.Addr, bool) {
	t.Helper()
	select {
	case a, ok := <-seen:
		return a, ok
	case <-time.After(lab.Patience):
		t.Error("waited in vain for the connection")
		return netip.Addr{}, false
	}
}

// wantEcho sends size bytes from a namespace and wants them back.
func wantEcho(t *testing.T, from *lab.Namespace, network, address string, size int) {
	t.Helper()
	conn, err := from.Dial(t.Context(), network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Patience))
	sent := make([]byte, size)
	io.ReadFull(body(int64(size)), sent)
	got, err := []byte(nil), error(nil)
	if network == "udp" {
		got, err = ask(conn, sent)
	} else {
		got, err = exchangeAll(conn.(*net.TCPConn), sent)
	}
	if err != nil || !slices.Equal(got, sent) {
		t.Errorf("%s %s: got %d bytes (%v), want the %d that were sent", network, address, len(got), err, size)
	}
}

// exchangeAll sends all, says so, and reads to the end.
func exchangeAll(conn *net.TCPConn, sent []byte) ([]byte, error) {
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		if err == nil {
			err = conn.CloseWrite()
		}
		failed <- err
	}()
	got, err := io.ReadAll(conn)
	if err2 := <-failed; err == nil {
		err = err2
	}
	return got, err
}
