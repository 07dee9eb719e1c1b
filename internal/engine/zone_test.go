package engine

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// TestNumberZones wants the names of zones to become numbers, which the engine can
// use without netlink, and what nobody can use to be left out.
func TestNumberZones(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip(err)
	}
	byName := netip.MustParseAddrPort("[fe80::1%lo]:53")
	byNumber := netip.MustParseAddrPort(fmt.Sprintf("[fe80::1%%%d]:53", lo.Index))
	plain := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[2001:db8::1]:5353"), netip.MustParseAddrPort("[fe80::1]:53"),
	}
	absent := netip.MustParseAddrPort("[fe80::1%nosuchdevice]:53")
	for _, tt := range []struct {
		name          string
		servers, want []netip.AddrPort
		lost          []netip.AddrPort
	}{
		{"none", nil, nil, nil},
		{"no zone", plain, plain, nil},
		{"name", []netip.AddrPort{plain[0], byName}, []netip.AddrPort{plain[0], byNumber}, nil},
		{"number", []netip.AddrPort{byNumber}, []netip.AddrPort{byNumber}, nil},
		{"no such device", []netip.AddrPort{absent, plain[0]}, plain[:1], []netip.AddrPort{absent}},
		{"only that", []netip.AddrPort{absent}, nil, []netip.AddrPort{absent}},
	} {
		given := slices.Clone(tt.servers)
		var lost []netip.AddrPort
		got := numberZones(given, func(server netip.AddrPort, _ error) { lost = append(lost, server) })
		if !slices.Equal(got, tt.want) || !slices.Equal(lost, tt.lost) {
			t.Errorf("%s: got %v and lost %v, want %v and %v", tt.name, got, lost, tt.want, tt.lost)
		}
		if !slices.Equal(given, tt.servers) {
			t.Errorf("%s: what was given became %v", tt.name, given)
		}
	}
}
