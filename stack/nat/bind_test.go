package nat

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// bound is bound to an address of the namespace's, in both families.
var bound = Bind{Addr4: netip.MustParseAddr(otherOutside4), Addr6: netip.MustParseAddr(outside6)}

func TestBindTCP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	device := Bind{Device4: "lo", Device6: "lo"}
	for _, test := range []struct {
		name   string
		bind   Bind
		target string
		source string // that the target sees
	}{
		{"not bound", Bind{}, outside4, outside4},
		{"address", bound, outside4, otherOutside4},
		{"address, IPv6", bound, "::1", "::1"},
		{"address, loopback", bound, "127.0.0.1", "127.0.0.1"},
		{"device", device, outside4, outside4},
		{"device, IPv6", device, outside6, outside6},
		{"other family", Bind{Addr6: bound.Addr6, Device6: "nosuch"}, outside4, outside4},
	} {
		t.Run(test.name, func(t *testing.T) {
			sources := make(chan netip.Addr, 2)
			port := serveTCP(t, net.JoinHostPort(test.target, "0"), func(c *net.TCPConn) {
				sources <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
			})
			ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
			defer cancel()
			target := netip.AddrPortFrom(netip.MustParseAddr(test.target), port)
			fd, err := dial(&Config{Bind: test.bind}, target, func() (context.Context, func()) { return ctx, func() {} })
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			dialer := &net.Dialer{Control: test.bind.Control}
			c, err := dialer.DialContext(ctx, "tcp", target.String())
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			for range 2 {
				if got := next(t, sources); got.String() != test.source {
					t.Errorf("source: got %v, want %v", got, test.source)
				}
			}
		})
	}
}

// TestBindTCPGone binds to what the host does not have.
func TestBindTCPGone(t *testing.T) {
	for name, bind := range map[string]Bind{
		"address": {Addr4: netip.MustParseAddr("192.0.2.77"), Addr6: netip.MustParseAddr("2001:db8::77")},
		"device":  {Device4: "nosuch", Device6: "nosuch"},
	} {
		for _, target := range []string{"198.51.100.1:80", "[2001:db8::1]:80"} {
			_, err := dial(&Config{Bind: bind}, netip.MustParseAddrPort(target), func() (context.Context, func()) { return context.Background(), func() {} })
			if !errors.Is(err, unix.ENETUNREACH) || isExhausted(err) {
				t.Errorf("%s for %s: got %v, want %v", name, target, err, unix.ENETUNREACH)
			}
		}
	}
}

// TestBindUDP has one port of the guest talk to the host's loopback and to
// others: each sees its own kind of source.
func TestBindUDP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, guest := startUDP(t, func(c *UDPConfig) { c.Bind = bound })
	initiator := netip.AddrPortFrom(guest4, 5000)
	for _, test := range []struct{ server, source string }{
		{outside4, otherOutside4 + ":5000"},
		{"127.0.0.1", "127.0.0.1:5000"},
	} {
		server := listen(t, test.server+":0")
		target := netip.AddrPortFrom(netip.MustParseAddr(outside4), portOf(server))
		if test.server == "127.0.0.1" {
			target = netip.AddrPortFrom(gateway4, portOf(server))
		}
		u.Handle(datagram(initiator, target, "question"))
		_, source := read(t, server)
		if source.String() != test.source {
			t.Errorf("%s sees: got %v, want %v", test.server, source, test.source)
		}
		write(t, server, source, "answer")
		if got, want := next(t, guest.datagrams), (received{target, initiator, "answer", 0}); got != want {
			t.Errorf("answer: got %v, want %v", got, want)
		}
	}
	wantMappings(t, &u.mapper, "with both", 2)
	for range 200 {
		u.sweep()
	}
	wantMappings(t, &u.mapper, "in the end", 0)
}

func TestBindUDPGone(t *testing.T) {
	u, guest := startUDP(t, func(c *UDPConfig) { c.Bind = Bind{Addr4: netip.MustParseAddr("192.0.2.77"), Device6: "nosuch"} })
	u.Handle(datagram(netip.AddrPortFrom(guest4, 5000), netip.MustParseAddrPort("198.51.100.1:80"), "x"))
	if got := parseError(t, next(t, guest.packets)); got.typ != 3 || got.code != 0 {
		t.Errorf("IPv4: got %d %d, want net unreachable", got.typ, got.code)
	}
	u.Handle(datagram(netip.AddrPortFrom(guest6, 5000), netip.MustParseAddrPort("[2001:db8::1]:80"), "x"))
	if got := parseError(t, next(t, guest.packets)); got.typ != 1 || got.code != 0 {
		t.Errorf("IPv6: got %d %d, want no route", got.typ, got.code)
	}
}

// TestBindEcho lets the namespace ping itself from another address.
func TestBindEcho(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	allowPing(t)
	e, guest := startEcho(t, func(c *EchoConfig) { c.Bind = bound })
	e.Handle(request(guest4, outside4, 7, 1, "x"))
	next(t, guest.packets)
	mp := e.mappingOf(netip.AddrPortFrom(guest4, 7))
	if mp == nil {
		t.Fatal("no mapping")
	}
	got, err := unix.Getsockname(mp.socket.FD())
	if a, ok := got.(*unix.SockaddrInet4); err != nil || !ok || netip.AddrFrom4(a.Addr) != bound.Addr4 {
		t.Errorf("source: got %v and error %v, want %v", got, err, bound.Addr4)
	}
}

func TestBindControlRefuses(t *testing.T) {
	dialer := &net.Dialer{Timeout: settle.Patience, Control: Bind{Device4: "nosuch"}.Control}
	if c, err := dialer.Dial("udp", "198.51.100.1:53"); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("got %v and error %v, want %v", c, err, unix.ENETUNREACH)
	}
}
