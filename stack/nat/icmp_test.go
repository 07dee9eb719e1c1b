package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"taproot/stack/policy"
)

// An icmpMessage is an ICMP message, parsed by code that shares nothing with
// what builds it.
type icmpMessage struct {
	source, destination netip.Addr
	ttl                 uint8
	typ, code           uint8
	rest                uint32 // bytes 4 to 7
	quoted              []byte
}

// parseICMP checks lengths, header checksums and ICMP checksums.
func parseICMP(b []byte) (icmpMessage, error) {
	if len(b) < 28 {
		return icmpMessage{}, fmt.Errorf("%d bytes", len(b))
	}
	var m icmpMessage
	var body []byte
	switch b[0] {
	case 0x45:
		if int(binary.BigEndian.Uint16(b[2:])) != len(b) || b[9] != 1 || slowChecksum(b[:20]) != 0 {
			return m, fmt.Errorf("bad IPv4 header % x", b[:20])
		}
		m.source, m.destination = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		m.ttl, body = b[8], b[20:]
		if slowChecksum(body) != 0 {
			return m, errors.New("bad ICMPv4 checksum")
		}
	case 0x60:
		if len(b) < 48 || int(binary.BigEndian.Uint16(b[4:])) != len(b)-40 || b[6] != 58 {
			return m, fmt.Errorf("bad IPv6 header % x", b)
		}
		m.source, m.destination = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		m.ttl, body = b[7], b[40:]
		pseudo := append([]byte(nil), b[8:40]...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
		pseudo = append(pseudo, 0, 0, 0, 58)
		if slowChecksum(append(pseudo, body...)) != 0 {
			return m, errors.New("bad ICMPv6 checksum")
		}
	default:
		return m, fmt.Errorf("bad first byte %#x", b[0])
	}
	m.typ, m.code, m.rest, m.quoted = body[0], body[1], binary.BigEndian.Uint32(body[4:]), body[8:]
	return m, nil
}

func parseError(t *testing.T, b []byte) icmpMessage {
	t.Helper()
	m, err := parseICMP(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// slowChecksum is RFC 1071 word for word.
func slowChecksum(b []byte) uint16 {
	var s uint64
	for i, c := range b {
		s += uint64(c) << (8 * (1 - i%2))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func TestICMPError(t *testing.T) {
	v4 := udpOriginal(netip.MustParseAddrPort("10.0.2.100:1000"), netip.MustParseAddrPort("198.51.100.1:80"), header{2000, 64, 0}, make([]byte, 2000))
	v6 := udpOriginal(netip.MustParseAddrPort("[fd00::64]:1000"), netip.MustParseAddrPort("[2001:db8::1]:80"), header{2000, 64, 0}, make([]byte, 2000))
	for _, test := range []struct {
		kind         ErrorKind
		type4, code4 uint8
		type6, code6 uint8
		rest4, rest6 uint32
	}{
		{NetUnreachable, 3, 0, 1, 0, 0, 0},
		{HostUnreachable, 3, 1, 1, 3, 0, 0},
		{PortUnreachable, 3, 3, 1, 4, 0, 0},
		{AdminProhibited, 3, 13, 1, 1, 0, 0},
		{TimeExceeded, 11, 0, 3, 0, 0, 0},
		{PacketTooBig, 3, 4, 2, 0, 1400, 1400},
	} {
		router4, router6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:1::1")
		got := parseError(t, icmpError(test.kind, v4, router4, 1400))
		want := icmpMessage{router4, guest4, 64, test.type4, test.code4, test.rest4, v4[:576-28]}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v: got %+v, want %+v", test.kind, got, want)
		}
		got = parseError(t, icmpError(test.kind, v6, router6, 1400))
		want = icmpMessage{router6, guest6, 64, test.type6, test.code6, test.rest6, v6[:1280-48]}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v: got %+v, want %+v", test.kind, got, want)
		}
	}
}

// Where RFC 1122 and RFC 4443 forbid an error there is none.
func TestICMPErrorForbidden(t *testing.T) {
	packet := func(source, destination string, protocol uint8, first byte) []byte {
		h := ipHeader{source: netip.MustParseAddr(source), destination: netip.MustParseAddr(destination), protocol: protocol, ttl: 64, length: 8}
		return append(h.append(nil), first, 0, 0, 0, 0, 0, 0, 0)
	}
	fragment := packet("10.0.2.100", "198.51.100.1", protoUDP, 0)
	fragment[7] = 1
	long := packet("10.0.2.100", "198.51.100.1", protoUDP, 0)
	long[0] = 0x4f
	for _, test := range []struct {
		name     string
		original []byte
		want     bool
	}{
		{"datagram", packet("10.0.2.100", "198.51.100.1", protoUDP, 0), true},
		{"echo", packet("10.0.2.100", "198.51.100.1", protoICMP4, icmp4Echo), true},
		{"error", packet("10.0.2.100", "198.51.100.1", protoICMP4, icmp4Unreachable), false},
		{"from nobody", packet("0.0.0.0", "198.51.100.1", protoUDP, 0), false},
		{"from loopback", packet("127.0.0.1", "198.51.100.1", protoUDP, 0), false},
		{"to many", packet("10.0.2.100", "224.0.0.1", protoUDP, 0), false},
		{"to all", packet("10.0.2.100", "255.255.255.255", protoUDP, 0), false},
		{"fragment", fragment, false},
		{"header too long", long, false},
		{"short", packet("10.0.2.100", "198.51.100.1", protoUDP, 0)[:27], false},
		{"nothing", nil, false},
		{"datagram 6", packet("fd00::64", "2001:db8::1", protoUDP, 0), true},
		{"echo 6", packet("fd00::64", "2001:db8::1", protoICMP6, icmp6Echo), true},
		{"error 6", packet("fd00::64", "2001:db8::1", protoICMP6, icmp6TooBig), false},
		{"from nobody 6", packet("::", "2001:db8::1", protoUDP, 0), false},
		{"to many 6", packet("fd00::64", "ff02::1", protoUDP, 0), false},
		{"short 6", packet("fd00::64", "2001:db8::1", protoUDP, 0)[:47], false},
	} {
		source := gateway4
		if len(test.original) > 0 && test.original[0]>>4 == 6 {
			source = gateway6
		}
		if got := icmpError(PortUnreachable, test.original, source, 0) != nil; got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
		for _, wrong := range []netip.Addr{{}, gateway4, gateway6} {
			if wrong != source && icmpError(PortUnreachable, test.original, wrong, 0) != nil {
				t.Errorf("%s: got an error from %v", test.name, wrong)
			}
		}
	}
}

func FuzzICMPError(f *testing.F) {
	f.Add(uint8(1), udpOriginal(netip.MustParseAddrPort("10.0.2.100:1"), netip.MustParseAddrPort("198.51.100.1:2"), header{3, 64, 0}, []byte("abc")), 1500)
	f.Add(uint8(6), udpOriginal(netip.MustParseAddrPort("[fd00::64]:1"), netip.MustParseAddrPort("[2001:db8::1]:2"), header{3, 64, 0}, []byte("abc")), -1)
	f.Fuzz(func(t *testing.T, kind uint8, original []byte, mtu int) {
		for _, source := range []netip.Addr{gateway4, gateway6} {
			b := icmpError(ErrorKind(kind), original, source, mtu)
			if b == nil {
				continue
			}
			m, err := parseICMP(b)
			if err != nil {
				t.Fatal(err)
			}
			if m.source != source || !bytes.HasPrefix(original, m.quoted) || len(m.quoted) < 28 || len(b) > 1280 {
				t.Errorf("got %+v of % x", m, original)
			}
		}
	})
}

func FuzzEchoOriginal(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 0x12, 0x34, 0, 1, 'x'}, uint16(7), uint16(1))
	f.Fuzz(func(t *testing.T, message []byte, id, length uint16) {
		length %= 60000
		if len(message) >= icmpHeaderLen {
			binary.BigEndian.PutUint16(message[2:], 0)
			binary.BigEndian.PutUint16(message[2:], slowChecksum(message))
		}
		source, destination := netip.AddrPortFrom(guest4, id), netip.MustParseAddrPort("198.51.100.1:0")
		b := echoOriginal(source, destination, header{length, 64, 0}, append([]byte(nil), message...))
		if got := binary.BigEndian.Uint16(b[24:]); got != id {
			t.Errorf("identifier: got %d, want %d", got, id)
		}
		if whole := len(b) == ipv4HeaderLen+len(message); whole && slowChecksum(b[20:]) != 0 {
			t.Errorf("checksum of % x is wrong", b[20:])
		}
		if int(length) < len(b)-28 {
			t.Errorf("got %d bytes of %d", len(b)-28, length)
		}
	})
}

func TestKindOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		kind ErrorKind
		ok   bool
	}{
		{syscall.ECONNREFUSED, PortUnreachable, true},
		{os.NewSyscallError("connect", syscall.ENETUNREACH), NetUnreachable, true},
		{syscall.EADDRNOTAVAIL, NetUnreachable, true},
		{syscall.EAFNOSUPPORT, NetUnreachable, true},
		{syscall.EHOSTUNREACH, HostUnreachable, true},
		{syscall.EACCES, AdminProhibited, true},
		{syscall.EMFILE, AdminProhibited, true},
		{syscall.EMSGSIZE, PacketTooBig, true},
		{fmt.Errorf("dial: %w", &policy.Denied{Rule: "host"}), AdminProhibited, true},
		{syscall.ETIMEDOUT, 0, false},
		{errClosed, 0, false},
		{nil, 0, false},
	} {
		if kind, ok := kindOf(test.err); kind != test.kind || ok != test.ok {
			t.Errorf("%v: got %v %v, want %v %v", test.err, kind, ok, test.kind, test.ok)
		}
	}
}

// What comes to the host and is passed on keeps its meaning.
func TestKindsRoundTrip(t *testing.T) {
	for k := NetUnreachable; k <= PacketTooBig; k++ {
		if got, ok := kindOfICMP4(k.wire4()); got != k || !ok {
			t.Errorf("ICMPv4: got %v %v, want %v", got, ok, k)
		}
		if got, ok := kindOfICMP6(k.wire6()); got != k || !ok {
			t.Errorf("ICMPv6: got %v %v, want %v", got, ok, k)
		}
	}
	for _, c := range []struct{ typ, code uint8 }{{11, 1}, {12, 0}, {5, 0}, {4, 0}} {
		if got, ok := kindOfICMP4(c.typ, c.code); ok {
			t.Errorf("ICMPv4 %v: got %v, want nothing", c, got)
		}
	}
	for _, c := range []struct{ typ, code uint8 }{{3, 1}, {4, 0}, {137, 0}} {
		if got, ok := kindOfICMP6(c.typ, c.code); ok {
			t.Errorf("ICMPv6 %v: got %v, want nothing", c, got)
		}
	}
}
