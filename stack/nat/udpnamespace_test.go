package nat

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"

	"taproot/internal/socket"
	"taproot/stack/flow"

	"golang.org/x/sys/unix"
)

// The guest's TTL less one hop and its TOS are on the host's datagram.
func TestUDPHeaderPassedOn(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, _ := startUDP(t)
	for _, test := range []struct {
		address      string
		guest        netip.Addr
		level        int
		ttlOn, tosOn int // options that make the server see them
		ttl, tos     int32
	}{
		{outside4, guest4, unix.IPPROTO_IP, unix.IP_RECVTTL, unix.IP_RECVTOS, unix.IP_TTL, unix.IP_TOS},
		{outside6, guest6, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, unix.IPV6_RECVTCLASS, unix.IPV6_HOPLIMIT, unix.IPV6_TCLASS},
	} {
		server := listen(t, netip.AddrPortFrom(netip.MustParseAddr(test.address), 0).String())
		for _, option := range []int{test.ttlOn, test.tosOn} {
			setOption(t, server, test.level, option)
		}
		d := datagram(netip.AddrPortFrom(test.guest, 5000), netip.AddrPortFrom(netip.MustParseAddr(test.address), portOf(server)), "x")
		for _, sent := range []struct{ ttl, tos, wantTTL int }{{64, 0, 64}, {20, 0xb8, 19}, {2, 1, 1}, {255, 2, 254}} {
			d.TTL, d.TOS = uint8(sent.ttl), uint8(sent.tos)
			u.Handle(d)
			ttl, tos := readHeader(t, server, test.level, test.ttl, test.tos)
			if ttl != sent.wantTTL || tos != sent.tos {
				t.Errorf("%s: TTL and TOS: got %d and %#x, want %d and %#x", test.address, ttl, tos, sent.wantTTL, sent.tos)
			}
		}
	}
}

func setOption(t *testing.T, c *net.UDPConn, level, option int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	if err != nil {
		t.Fatal(err)
	}
}

// readHeader returns TTL and TOS of the next datagram.
func readHeader(t *testing.T, c *net.UDPConn, level int, ttlType, tosType int32) (ttl, tos int) {
	t.Helper()
	b, oob := make([]byte, 16), make([]byte, 256)
	_, n, _, _, err := c.ReadMsgUDPAddrPort(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	m := socket.Message{Control: oob[:n]}
	ttl = m.Integer(int32(level), ttlType)
	if data := m.Find(int32(level), tosType); len(data) == 1 { // IPv4's is a byte
		return ttl, int(data[0])
	}
	return ttl, m.Integer(int32(level), tosType)
}

// RFC 4787 REQ-8, with real sockets: another port of a known host may answer,
// another host may not.
func TestUDPAddressDependentFiltering(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, guest := startUDP(t)
	server, sibling := listen(t, outside4+":0"), listen(t, outside4+":0")
	stranger := listen(t, otherOutside4+":0")
	initiator := netip.AddrPortFrom(guest4, 5000)
	u.Handle(datagram(initiator, netip.MustParseAddrPort(server.LocalAddr().String()), "x"))
	read(t, server)
	host := netip.AddrPortFrom(netip.MustParseAddr(outside4), 5000)
	write(t, stranger, host, "stranger")
	write(t, sibling, host, "sibling")
	want := received{netip.MustParseAddrPort(sibling.LocalAddr().String()), initiator, "sibling", 0}
	if got := next(t, guest.datagrams); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := u.Stats.Filtered.Load(); got != 1 {
		t.Errorf("filtered: got %d, want 1", got)
	}
}

// With DF the guest hears of a small MTU on the host; without it, and in IPv6,
// the host fragments.
func TestUDPTooBig(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	setMTU(t, 1300)
	u, guest := startUDP(t)
	payload := strings.Repeat("x", 1400)
	for _, test := range []struct {
		address string
		guest   netip.Addr
		df      bool
	}{{outside4, guest4, true}, {outside4, guest4, false}, {outside6, guest6, true}} {
		server := listen(t, netip.AddrPortFrom(netip.MustParseAddr(test.address), 0).String())
		target := netip.AddrPortFrom(netip.MustParseAddr(test.address), portOf(server))
		d := datagram(netip.AddrPortFrom(test.guest, 5000), target, payload)
		if !test.df {
			d.Header[6] = 0
		}
		u.Handle(d)
		if test.guest.Is6() || !test.df {
			if got, _ := read(t, server); got != payload {
				t.Errorf("%+v: got %d bytes, want %d", test, len(got), len(payload))
			}
			continue
		}
		e := parseError(t, next(t, guest.packets))
		if e.source != gateway4 || e.typ != 3 || e.code != 4 || e.rest != 1300 {
			t.Errorf("got %+v, want fragmentation needed, MTU 1300, from the gateway", e)
		}
		if string(e.quoted) != string(d.Header) {
			t.Errorf("quoted: got % x, want % x", e.quoted, d.Header)
		}
	}
}

// What routers say reaches the guest in their name, about the guest's packet.
func TestUDPRouterErrors(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, guest := startUDP(t)
	server := listen(t, outside4+":0")
	initiator, target := netip.AddrPortFrom(guest4, 5000), netip.AddrPortFrom(netip.MustParseAddr(outside4), portOf(server))
	u.Handle(datagram(initiator, target, "hello"))
	read(t, server)
	hostSide := udpOriginal(netip.AddrPortFrom(netip.MustParseAddr(outside4), 5000), target, header{5, 1, 0}, []byte("hello"))
	for _, test := range []struct {
		router, speaker string
		kind            ErrorKind
		mtu             int
		typ, code       uint8
		rest            uint32
	}{
		{"203.0.113.9", "203.0.113.9", TimeExceeded, 0, 11, 0, 0},
		{"203.0.113.9", "203.0.113.9", HostUnreachable, 0, 3, 1, 0},
		{"203.0.113.9", "203.0.113.9", AdminProhibited, 0, 3, 13, 0},
		{"203.0.113.9", "203.0.113.9", PacketTooBig, 1400, 3, 4, 1400},
		{outside4, outside4, PortUnreachable, 0, 3, 3, 0},
		{"169.254.0.1", "10.0.2.2", NetUnreachable, 0, 3, 0, 0}, // a router the guest may not see
	} {
		inject(t, test.router, test.kind, hostSide, test.mtu)
		e := parseError(t, next(t, guest.packets))
		if e.source.String() != test.speaker || e.typ != test.typ || e.code != test.code || e.rest != test.rest {
			t.Errorf("%v from %s: got %+v", test.kind, test.router, e)
		}
		want := udpOriginal(initiator, target, header{5, 64, 0}, []byte("hello"))
		if string(e.quoted) != string(want) {
			t.Errorf("%v: quoted: got % x, want % x", test.kind, e.quoted, want)
		}
	}
	// The mapping still works.
	u.Handle(datagram(initiator, target, "again"))
	if got, _ := read(t, server); got != "again" {
		t.Errorf("after the errors: got %q, want %q", got, "again")
	}
}

// What the host itself refuses is told at once, by the gateway.
func TestUDPNoRoute(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, guest := startUDP(t)
	for _, test := range []struct {
		guest, gateway netip.Addr
		target         string
		typ, code      uint8
	}{
		{guest4, gateway4, "192.0.2.1:80", 3, 0},
		{guest6, gateway6, "[2001:db8:1::1]:80", 1, 0},
	} {
		u.Handle(datagram(netip.AddrPortFrom(test.guest, 5000), netip.MustParseAddrPort(test.target), "x"))
		e := parseError(t, next(t, guest.packets))
		if e.source != test.gateway || e.typ != test.typ || e.code != test.code {
			t.Errorf("%s: got %+v, want net unreachable from the gateway", test.target, e)
		}
	}
	if got := u.Stats.Failed.Load(); got != 2 {
		t.Errorf("failed: got %d, want 2", got)
	}
}

// Without descriptors new flows are refused, and old ones go on.
func TestUDPNoDescriptors(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	u, guest := startUDP(t)
	server := listen(t, outside4+":0")
	target := netip.AddrPortFrom(netip.MustParseAddr(outside4), portOf(server))
	u.Handle(datagram(netip.AddrPortFrom(guest4, 5000), target, "old"))
	read(t, server)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	u.Handle(datagram(netip.AddrPortFrom(guest4, 5001), target, "new"))
	u.Handle(datagram(netip.AddrPortFrom(guest4, 5000), target, "old"))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, server); got != "old" {
		t.Errorf("got %q, want %q", got, "old")
	}
	e := parseError(t, next(t, guest.packets))
	if e.typ != 3 || e.code != 13 || u.Stats.Full.Load() != 1 {
		t.Errorf("got %+v and %d counted, want prohibited and 1", e, u.Stats.Full.Load())
	}
	if got := binary.BigEndian.Uint16(e.quoted[20:]); got != 5001 {
		t.Errorf("quoted port: got %d, want 5001", got)
	}
	if _, got := u.sizes(); got != u.cfg.Flows.Len(flow.UDP) || got != 1 {
		t.Errorf("flows: got %d and %d, want 1", got, u.cfg.Flows.Len(flow.UDP))
	}
}
