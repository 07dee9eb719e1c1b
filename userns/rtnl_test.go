package userns

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// routeMessage returns an answer that tells a route.
func routeMessage(t testing.TB, header unix.RtMsg, set func(*netlink.AttributeEncoder)) netlink.Message {
	t.Helper()
	data, err := marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	a := netlink.NewAttributeEncoder()
	set(a)
	tail, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWROUTE}, Data: append(data, tail...)}
}

func TestParseRoute(t *testing.T) {
	through := func(address string) func(*netlink.AttributeEncoder) {
		return func(a *netlink.AttributeEncoder) {
			a.Bytes(unix.RTA_GATEWAY, netip.MustParseAddr(address).AsSlice())
			a.Uint32(unix.RTA_OIF, 7)
		}
	}
	v4 := unix.RtMsg{Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	v6, local, other := v4, v4, v4
	v6.Family, local.Type, other.Table = unix.AF_INET6, unix.RTN_LOCAL, 7
	long := v4
	long.Dst_len = 33
	for _, tt := range []struct {
		name string
		m    netlink.Message
		want mainRoute
		ok   bool
	}{
		{"default", routeMessage(t, v4, through("10.0.2.2")), mainRoute{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.2.2"), 7}, true},
		{"default of IPv6", routeMessage(t, v6, through("fe80::1")), mainRoute{netip.MustParsePrefix("::/0"), netip.MustParseAddr("fe80::1"), 7}, true},
		{"local", routeMessage(t, local, through("10.0.2.2")), mainRoute{}, false},
		{"other table", routeMessage(t, other, through("10.0.2.2")), mainRoute{}, false},
		{"prefix too long", routeMessage(t, long, through("10.0.2.2")), mainRoute{}, false},
		{"short", netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWROUTE}, Data: make([]byte, unix.SizeofRtMsg-1)}, mainRoute{}, false},
		{"no route", netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWADDR}, Data: make([]byte, 99)}, mainRoute{}, false},
	} {
		if got, ok := parseRoute(tt.m); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: got %v, %v, want %v, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestBroadcast(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.0.2.100/24": "10.0.2.255", "10.0.0.1/30": "10.0.0.3", "192.168.130.1/17": "192.168.255.255", "10.0.0.1/0": "255.255.255.255",
	} {
		if got := broadcast(netip.MustParsePrefix(prefix)).String(); got != want {
			t.Errorf("%s: got %s, want %s", prefix, got, want)
		}
	}
}

// FuzzAnswer parses what a socket of ours may receive.
func FuzzAnswer(f *testing.F) {
	header := unix.RtMsg{Family: unix.AF_INET, Dst_len: 24, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	m := routeMessage(f, header, func(a *netlink.AttributeEncoder) {
		a.Bytes(unix.RTA_DST, []byte{10, 0, 2, 0})
		a.Uint32(unix.RTA_OIF, 2)
	})
	m.Header.Length = uint32(unix.NLMSG_HDRLEN + len(m.Data))
	b, err := m.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, b...))
	f.Add(binary.NativeEndian.AppendUint32(nil, unix.NLMSG_HDRLEN))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, err := parseMessages(b)
		if err != nil {
			return
		}
		for _, m := range messages {
			if r, ok := parseRoute(m); ok && r.destination != r.destination.Masked() {
				t.Errorf("got destination %v, want it masked", r.destination)
			}
		}
	})
}
