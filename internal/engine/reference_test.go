package engine

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/tap"
)

// A wish is what a frame may ask for, read as generously as the RFCs allow: nothing
// leaves for which there is no wish. anyPort is for fragments, the header of whose
// datagram is elsewhere.
type wish struct {
	proto   byte
	to      netip.AddrPort
	anyPort bool
}

// wishesOf reads a frame with its virtio-net header.
func wishesOf(b []byte) []wish {
	if len(b) < tap.HeaderLen+14 {
		return nil
	}
	b = b[tap.HeaderLen:]
	kind, packet := binary.BigEndian.Uint16(b[12:]), b[14:]
	switch {
	case kind == 0x0800 && len(packet) >= 20:
		return wishes4(packet)
	case kind == 0x86dd && len(packet) >= 40:
		return wishes6(packet)
	}
	return nil
}

func wishes4(b []byte) []wish {
	to, proto := netip.AddrFrom4([4]byte(b[16:])), b[9]
	fragment := binary.BigEndian.Uint16(b[6:])
	l4 := b[min(len(b), int(b[0]&15)*4):]
	return []wish{wishAt(proto, to, l4, fragment&0x3fff != 0)}
}

// wishes6 follows the headers of RFC 8200 §4, whatever their order.
func wishes6(b []byte) []wish {
	to, next, rest := netip.AddrFrom16([16]byte(b[24:])), b[6], b[40:]
	for {
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(rest) < 8 {
				return nil
			}
			next, rest = rest[0], rest[min(len(rest), 8+8*int(rest[1])):]
		case unix.IPPROTO_FRAGMENT:
			if len(rest) < 8 {
				return nil
			}
			// The headers that follow may be in another fragment.
			anything := netip.AddrPortFrom(to, 0)
			return []wish{{unix.IPPROTO_UDP, anything, true}, {unix.IPPROTO_TCP, anything, true}, {unix.IPPROTO_ICMPV6, anything, true}}
		default:
			return []wish{wishAt(next, to, rest, false)}
		}
	}
}

// wishAt reads the header of a transport.
func wishAt(proto byte, to netip.Addr, l4 []byte, fragment bool) wish {
	w := wish{proto: proto, to: netip.AddrPortFrom(to, 0), anyPort: fragment}
	if !fragment && len(l4) >= 4 && (proto == unix.IPPROTO_UDP || proto == unix.IPPROTO_TCP) {
		w.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(l4[2:]))
	}
	return w
}

// covers tells whether a departure is what was wished for.
func (w wish) covers(d departure) bool {
	return w.proto == d.proto && w.to.Addr() == d.to.Addr() && (w.anyPort || w.to.Port() == d.to.Port())
}

// asksResolver tells whether a wish may be a query, which leaves for another place.
func (w wish) asksResolver() bool {
	a := w.to.Addr()
	return (a == netip.MustParseAddr("10.0.2.3") || a == netip.MustParseAddr("fd00::3")) && (w.anyPort || w.to.Port() == 53)
}

// never lists where nothing of the guest of fuzzSpec may go, besides what carries
// one of these in itself.
func never() (list []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
		"10.0.2.2/32", "10.0.2.3/32", "10.0.2.100/32", "10.0.2.255/32", "192.0.2.2/32",
		"::/96", "fe80::/10", "ff00::/8", "fd00::2/128", "fd00::3/128", "fd00::64/128", "fd00:ec2::254/128", "2001:db8::2/128",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// carried returns the IPv4 address that one of IPv6 carries (RFC 6052, 6219, 3056).
func carried(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	for prefix, at := range map[string]int{"64:ff9b::/96": 12, "64:ff9b:1::/48": 12, "2002::/16": 2, "::ffff:0:0:0/96": 12} {
		if netip.MustParsePrefix(prefix).Contains(a) {
			return netip.AddrFrom4([4]byte(b[at:])), true
		}
	}
	return netip.Addr{}, false
}

// isForbidden tells whether nothing of the guest may go to an address.
func isForbidden(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range never() {
		if p.Contains(a) {
			return true
		}
	}
	if a.Is4() {
		return false
	}
	inside, ok := carried(a)
	return ok && isForbidden(inside)
}

// checkDepartures wants a frame for all that left, and nothing to have left that is
// forbidden.
func checkDepartures(t *testing.T, frames [][]byte, left []departure) {
	t.Helper()
	var wishes []wish
	for _, f := range frames {
		wishes = append(wishes, wishesOf(f)...)
	}
	for _, d := range left {
		covered := false
		for _, w := range wishes {
			covered = covered || w.covers(d) || w.asksResolver() && d.to == outsideDNS
		}
		if !covered {
			t.Errorf("left without a frame that asks for it: protocol %d to %v, of %v", d.proto, d.to, wishes)
		}
		if isForbidden(d.to.Addr()) {
			t.Errorf("left to where nothing may: protocol %d to %v", d.proto, d.to)
		}
	}
}

// TestForbidden holds the reference itself against some addresses.
func TestForbidden(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "64:ff9b::7f00:1": true, "2002:7f00:1::": true, "169.254.169.254": true,
		"198.51.100.1": false, "2001:db8::1": false, "64:ff9b::c633:6401": false,
	} {
		if got := isForbidden(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: got %v, want %v", address, got, want)
		}
	}
}
