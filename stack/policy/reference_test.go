package policy

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// reaches lists the addresses that a packet to addr can end at: addr itself
// and what it carries. It is slow and plain, written from the RFCs and not
// from the code, to hold Check against.
func reaches(addr netip.Addr) []netip.Addr {
	addr = addr.Unmap()
	list := []netip.Addr{addr}
	if addr.Is4() {
		return list
	}
	b := addr.As16()
	for prefix, at := range map[string]int{
		"64:ff9b::/96":    12,
		"64:ff9b:1::/48":  12,
		"2002::/16":       2,
		"::ffff:0:0:0/96": 12,
		"::/96":           12,
	} {
		if netip.MustParsePrefix(prefix).Contains(addr) {
			list = append(list, netip.AddrFrom4([4]byte(b[at:at+4])))
		}
	}
	if netip.MustParsePrefix("2001::/32").Contains(addr) {
		n := ^binary.BigEndian.Uint32(b[12:])
		list = append(list, netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))))
	}
	return list
}

// forbidden are the ranges that a default guest must not reach by any way.
func forbidden() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
		"192.0.2.2/32", "198.51.100.7/32", "10.0.2.2/32", "10.0.2.3/32", "10.0.2.100/32", "10.0.2.255/32",
		"::/128", "::1/128", "fe80::/10", "ff00::/8", "2001:db8::2/128", "fd00:ec2::254/128",
		"fd00::2/128", "fd00::3/128", "fd00::64/128",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		"8.8.8.8", "127.0.0.1", "10.0.2.2", "::", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1",
		"2002:7f00:1::", "2001::80ff:fffe", "::ffff:0:7f00:1", "fe80::1", "2001:db8::5efe:7f00:1", "fd00::2",
	} {
		a := netip.MustParseAddr(s)
		f.Add(a.AsSlice(), uint16(80), uint8(TCP))
	}
	r := rules(f, nil)
	open := rules(f, func(c *Config) {
		c.HostLoopback = mustPorts(f, "all")
		c.AllowHost = mustPorts(f, "all")
		c.AllowLinkLocal = true
		c.Maps = []Map{mapOf(f, "192.0.2.9", "127.0.0.1", "all"), mapOf(f, "fd00::9", "::1", "80")}
	})
	ranges := forbidden()
	f.Fuzz(func(t *testing.T, raw []byte, port uint16, proto uint8) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		dst := netip.AddrPortFrom(addr, port)
		target, err := r.Check(Proto(proto), dst)
		if err == nil && target != netip.AddrPortFrom(addr.Unmap(), port) {
			t.Errorf("Check(%v): got %v, want it unchanged", dst, target)
		}
		for _, end := range reaches(addr) {
			for _, p := range ranges {
				if err == nil && p.Contains(end) {
					t.Errorf("Check(%v): allowed, although it reaches %v in %v", dst, end, p)
				}
			}
		}
		// However much is opened, loopback is only reached at the gateway and
		// by maps.
		target, err = open.Check(Proto(proto), dst)
		_, mapped := open.mapped(Proto(proto), netip.AddrPortFrom(addr.Unmap().WithZone(""), port))
		if err == nil && (target.Addr().IsLoopback() || target.Addr().IsUnspecified()) && !open.isGateway(addr.Unmap()) && !mapped {
			t.Errorf("Check(%v): got %v, want it denied", dst, target)
		}
		r.Source(addr)
	})
}
