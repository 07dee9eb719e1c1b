package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// newForwards makes a target, a helper and the path of its API.
func (s slirp) newForwards(t *testing.T, options ...string) (to *target, api string) {
	t.Helper()
	api = s.apiPath()
	return s.newTraffic(t, append(options, "--api-socket="+api)...), api
}

// serveAddresses starts a service in a namespace that tells its clients, by
// either protocol, the address they come from.
func serveAddresses(n *lab.Namespace, address string) {
	listener := n.Listen("tcp", address)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
	go tellPeer(n.ListenPacket("udp", address))
}

// whoAmI asks such a service, and returns the address without its port.
func whoAmI(n *lab.Namespace, network, address string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	conn, err := n.Dial(ctx, network, address)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Patience))
	var b []byte
	if network == "udp" {
		b, err = ask(conn, []byte("who am I?"))
	} else {
		b, err = io.ReadAll(conn)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	peer, err := netip.ParseAddrPort(string(b))
	return peer.Addr().Unmap(), err
}

// TestSlirpForward: who the guest's services see. This is why people choose
// this way to publish ports.
func TestSlirpForward(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		listen  string // host address of the forward
		guest   string // guest address of the forward
		client  string // namespace of the client
		address string // that the client connects to
		want    string // that the service sees
		// original is what the original shows instead. Ours has the gateway for
		// each of the host's own addresses.
		original string
		needs    []lab.Feature
	}{
		{"loopback", "127.0.0.1", "", "host", "127.0.0.1", gateway4, "", nil},
		{"any from loopback", "0.0.0.0", "", "host", "127.0.0.1", gateway4, "", nil},
		{"any from the host's address", "0.0.0.0", "10.0.2.100", "host", lab.Host4, gateway4, lab.Host4, nil},
		{"any from outside", "", "", "outside", lab.Host4, lab.Outside4, "", nil},
		{"address from the router", lab.Host4, "", "router", lab.Host4, lab.Router4, "", nil},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		to, api := s.newForwards(t)
		for i, tt := range tests {
			// The original takes all replies of a guest's UDP port for those of
			// the forward that came first.
			guest := 9000 + i
			serveAddresses(to.net, join(guest4, guest))
			for _, network := range []string{"tcp", "udp"} {
				t.Run(tt.name+" "+network, func(t *testing.T) {
					lab.Need(t, tt.needs...)
					s := s.with(t)
					from := map[string]*lab.Namespace{"host": s.Host, "router": s.Router, "outside": s.Outside}[tt.client]
					port := 8000 + i
					s.forward(t, api, network, join(tt.listen, port), join(tt.guest, guest))
					got, err := whoAmI(from, network, join(tt.address, port))
					if s.original && tt.original != "" {
						tt.want = tt.original
					}
					if err != nil || got != netip.MustParseAddr(tt.want) {
						t.Errorf("the service saw %v (%v), want %s", got, err, tt.want)
					}
				})
			}
		}
	})
}

// TestSlirpForwardIPv6: the original has none of it.
func TestSlirpForwardIPv6(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.IPv6)
	ourSlirp(t, func(t *testing.T, s slirp) {
		to, api := s.newForwards(t, "--macaddress=02:00:5e:10:20:30")
		const guest = "fd00::5eff:fe10:2030"
		serveAddresses(to.net, join(guest, 80))
		serveAddresses(to.net, join(guest4, 80))
		for _, network := range []string{"tcp", "udp"} {
			s.forward(t, api, network, "[::1]:8001", join(guest, 80))
			s.forward(t, api, network, "[::]:8002", join(guest, 80))
			s.forward(t, api, network, "0.0.0.0:8003", ":80")
			tests := []struct {
				name    string
				client  *lab.Namespace
				address string
				want    string
			}{
				{"loopback", s.Host, "[::1]:8001", gateway6},
				{"from outside", s.Outside, join(lab.Host6, 8002), lab.Outside6},
			}
			for _, tt := range tests {
				got, err := whoAmI(tt.client, network, tt.address)
				if err != nil || got != netip.MustParseAddr(tt.want) {
					t.Errorf("%s %s: the service saw %v (%v), want %s", tt.name, network, got, err, tt.want)
				}
			}
		}
		// 0.0.0.0 is IPv4 and nothing else.
		if conn, err := s.Host.Dial(t.Context(), "tcp", "[::1]:8003"); err == nil {
			conn.Close()
			t.Error("connect to a forward of 0.0.0.0 over IPv6: got a connection")
		}
	})
}

// TestSlirpForwardNobody: when nobody listens in the guest, the client is
// closed without a byte.
func TestSlirpForwardNobody(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		_, api := s.newForwards(t)
		s.forward(t, api, "tcp", "0.0.0.0:8080", ":80")
		conn, err := s.Host.Dial(t.Context(), "tcp", "127.0.0.1:8080")
		if errors.Is(err, unix.ECONNRESET) {
			return // it came before the end of connect(2)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(lab.Patience))
		b := make([]byte, 1)
		if n, err := conn.Read(b); n != 0 || err == nil || isTimeout(err) {
			t.Errorf("got %d bytes (%v), want the connection closed", n, err)
		}
	})
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// TestSlirpForwardRemove: the port is free after the reply, and connections
// stay.
func TestSlirpForwardRemove(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to, api := s.newForwards(t)
		server := to.net.Listen("tcp", "10.0.2.100:80")
		go func() {
			for {
				conn, err := server.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					io.Copy(conn, conn)
				}()
			}
		}()
		id := s.forwardID(t, api, "tcp", "127.0.0.1:8080", ":80")
		conn, err := s.Host.Dial(t.Context(), "tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(lab.Patience))
		if err := sendByte(conn); err != nil {
			t.Fatalf("before: %v", err)
		}
		s.ask(t, api, fmt.Sprintf(`{"execute":"remove_hostfwd","arguments":{"id":%d}}`, id))
		if other, err := s.Host.Dial(t.Context(), "tcp", "127.0.0.1:8080"); err == nil {
			other.Close()
			t.Error("the port still takes connections after the reply")
		}
		if err := sendByte(conn); err != nil {
			t.Errorf("the connection after it: %v", err)
		}
		// The same port again, at once.
		s.forward(t, api, "tcp", "127.0.0.1:8080", ":80")
		wantEcho(t, s.Host, "tcp", "127.0.0.1:8080", 1000)
	})
}

// sendByte sends a byte and wants it back.
func sendByte(conn net.Conn) error {
	b := []byte{42}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, b)
	return err
}

// TestSlirpForwardBulk: the bytes of a published port.
func TestSlirpForwardBulk(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to, api := s.newForwards(t, "--mtu=65520")
		serveTCPAt(to.net, "10.0.2.100:80", echo)
		s.forward(t, api, "tcp", "127.0.0.1:8080", ":80")
		wantEcho(t, s.Host, "tcp", "127.0.0.1:8080", 3_000_000)
	})
}

// serveTCPAt is serveTCP at an address.
func serveTCPAt(n *lab.Namespace, address string, handle func(*net.TCPConn)) {
	listener := n.Listen("tcp", address)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn.(*net.TCPConn))
			}()
		}
	}()
}

// TestSlirpPorts: low ports need the machine's leave, and the error is the
// usual one.
func TestSlirpPorts(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		_, api := s.newForwards(t)
		got := s.ask(t, api, addRequest(t, "tcp", "127.0.0.1:80", ":80"))
		wantContains(t, "port 80", got, bad("add_hostfwd: slirp_add_hostfwd failed"))
		s.Host.Sysctl("net/ipv4/ip_unprivileged_port_start", "80")
		s.forward(t, api, "tcp", "127.0.0.1:80", ":80")
	})
}

// TestSlirpSocketTaken: a socket of a live instance is not taken away from it; a
// stale one, and any other file, is replaced.
func TestSlirpSocketTaken(t *testing.T) {
	t.Parallel()
	ourSlirp(t, func(t *testing.T, s slirp) {
		first, api := s.newForwards(t)
		h := s.start(t, "-c", "--api-socket="+api, s.target(t).pid(), "tap0")
		wantText(t, "ready descriptor of the second", h.said(t), "")
		if got := h.Status(); got != 1 {
			t.Errorf("status of the second: got %d, want 1", got)
		}
		wantContains(t, "standard error of the second", h.Err(), api)
		serveAddresses(first.net, "10.0.2.100:80")
		s.forward(t, api, "tcp", "127.0.0.1:8080", ":80")
		if got, err := whoAmI(s.Host, "tcp", "127.0.0.1:8080"); err != nil || got != netip.MustParseAddr(gateway4) {
			t.Errorf("the first after it: the service saw %v (%v), want %s", got, err, gateway4)
		}
	})
}
