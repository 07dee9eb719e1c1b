package stack

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"taproot/stack/link"
	"taproot/tap"
)

// refusal4 is what a guest says of a datagram "hello" of 10.0.2.2:4000 to its port
// 80.
func refusal4() []byte {
	guest, gateway := []byte{10, 0, 2, 100}, []byte{10, 0, 2, 2}
	ip := func(protocol byte, from, to []byte, body []byte) []byte {
		b := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 0, 0, 0, 64, protocol, 0, 0}
		return append(append(append(b, from...), to...), body...)
	}
	return append(toGateway(0x0800), ip(1, guest, gateway, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, ip(17, gateway, guest, hello())...))...)
}

// refusal6 is the same by IPv6.
func refusal6() []byte {
	guest, gateway := netip.MustParseAddr("fd00::64").AsSlice(), netip.MustParseAddr("fd00::2").AsSlice()
	ip := func(next byte, from, to []byte, body []byte) []byte {
		b := []byte{0x60, 0, 0, 0, 0, byte(len(body)), next, 64}
		return append(append(append(b, from...), to...), body...)
	}
	return append(toGateway(0x86dd), ip(58, guest, gateway, append([]byte{1, 4, 0, 0, 0, 0, 0, 0}, ip(17, gateway, guest, hello())...))...)
}

func toGateway(etherType uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee, 2, 0, 0, 0, 0, 1}, etherType)
}

// hello is a UDP datagram.
func hello() []byte { return append([]byte{0x0f, 0xa0, 0, 80, 0, 13, 0, 0}, "hello"...) }

func TestRefusal(t *testing.T) {
	want4 := Refusal{Source: netip.MustParseAddrPort("10.0.2.2:4000"), Destination: netip.MustParseAddrPort("10.0.2.100:80")}
	want6 := Refusal{Source: netip.MustParseAddrPort("[fd00::2]:4000"), Destination: netip.MustParseAddrPort("[fd00::64]:80")}
	for _, tt := range []struct {
		name    string
		frame   []byte
		change  int // offset of a byte that is another one
		cut     int // bytes
		want    Refusal
		payload string // "nil" for none
	}{
		{name: "IPv4", frame: refusal4(), want: want4, payload: "hello"},
		{name: "IPv6", frame: refusal6(), want: want6, payload: "hello"},
		{name: "IPv4, a part", frame: shorter(refusal4(), 16, 1), want: want4, payload: "nil"},
		{name: "IPv6, a part", frame: shorter(refusal6(), 18, 1), want: want6, payload: "nil"},
		{name: "IPv4, cut", frame: refusal4(), cut: 1},
		{name: "IPv6, cut", frame: refusal6(), cut: 1},
		{name: "IPv4, without ports", frame: shorter(refusal4(), 16, 10)},
		{name: "IPv6, without ports", frame: shorter(refusal6(), 18, 10)},
		{name: "IPv4, options", frame: refusal4(), change: atIP},
		{name: "IPv4, another code", frame: refusal4(), change: atICMPv4 + 1},
		{name: "IPv6, another code", frame: refusal6(), change: atICMPv6 + 1},
		{name: "IPv4, of somebody else's", frame: refusal4(), change: atIPv4Source},
		{name: "IPv6, of somebody else's", frame: refusal6(), change: atIPv6Source},
		{name: "IPv4, of no datagram", frame: refusal4(), change: atICMPv4 + icmpHeader + 9},
		{name: "IPv6, of no datagram", frame: refusal6(), change: atICMPv6 + icmpHeader + 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.frame[tt.change] ^= 6 // the first byte does not matter
			f := link.Whole(tap.Header{}, tt.frame[:len(tt.frame)-tt.cut])
			got, ok := refusalOf(&f)
			if ok != tt.want.Source.IsValid() || ok && (got.Source != tt.want.Source || got.Destination != tt.want.Destination) {
				t.Fatalf("got %+v, %v, want %+v", got, ok, tt.want)
			}
			if ok && ((got.Payload == nil) != (tt.payload == "nil") || got.Payload != nil && string(got.Payload) != tt.payload) {
				t.Errorf("payload: got %q, want %q", got.Payload, tt.payload)
			}
		})
	}
}

// shorter returns a frame that is n bytes shorter, and says so at the offset of
// its length.
func shorter(frame []byte, at, n int) []byte {
	binary.BigEndian.PutUint16(frame[at:], binary.BigEndian.Uint16(frame[at:])-uint16(n))
	return frame[:len(frame)-n]
}
