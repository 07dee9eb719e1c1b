package userns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TestDivertSockets diverts connections of sockets with options of their own.
func TestDivertSockets(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	const guestMark = 0x123
	w.guestRule(t, guestMark)
	bind := func(addr string) func(fd int) error {
		return func(fd int) error {
			return unix.Bind(fd, sockaddrOf(netip.MustParseAddrPort(addr)))
		}
	}
	marked := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, guestMark) }
	for _, tt := range []struct {
		name, to string
		setup    func(fd int) error
	}{
		{"address", "198.51.100.7:80", bind("10.0.2.100:0")},
		{"low port", "198.51.100.7:80", bind("10.0.2.100:99")},
		{"low port again", "198.51.100.8:80", bind("10.0.2.100:98")},
		{"mark", "198.51.100.7:81", marked},
		{"address, IPv6", "[2001:db8::7]:80", bind("[fd00::64]:0")},
		{"low port, IPv6", "[2001:db8::7]:80", bind("[fd00::64]:99")},
		{"mark, IPv6", "[2001:db8::7]:81", marked},
		{"on the link", "10.0.2.2:80", nil},
	} {
		t.Run(tt.name, func(t *testing.T) { w.converse(t, tt.to, tt.setup) })
	}
}

// guestRule routes packets with a mark as a guest might: by a table of its own,
// with the same route, that comes by a rule which the kernel places.
func (w *world) guestRule(t *testing.T, m uint32) {
	t.Helper()
	network, err := w.ns.network(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer network.close()
	link, err := network.routes.link("tap0")
	if err != nil {
		t.Fatal(err)
	}
	for _, gateway := range []string{"10.0.2.2", "fd00::2"} {
		addr := netip.MustParseAddr(gateway)
		err := network.routes.tableRoute(unix.RTM_NEWROUTE, netlink.Create, tableRoute{family: uint8(family(addr)), table: 5, link: link, gateway: addr})
		if err != nil {
			t.Fatal(err)
		}
		header := unix.RtMsg{Family: uint8(family(addr)), Table: 5, Type: 1}
		err = network.routes.set(unix.RTM_NEWRULE, netlink.Create, header, func(a *netlink.AttributeEncoder) {
			a.Uint32(unix.FRA_FWMARK, m)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDivertNot wants the connections that cannot be diverted, or shall not be,
// to come out as they always did.
func TestDivertNot(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{Except: []netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("fd00::3")}})
	device := func(fd int) error { return unix.BindToDevice(fd, "tap0") }
	stranger := func(level, option int, addr string) func(fd int) error {
		return func(fd int) error {
			if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
				return err
			}
			return unix.Bind(fd, sockaddrOf(netip.MustParseAddrPort(addr)))
		}
	}
	for _, tt := range []struct {
		name, to string
		setup    func(fd int) error
	}{
		{"device", "198.51.100.7:80", device},
		{"device, IPv6", "[2001:db8::7]:80", device},
		{"device, on the link", "10.0.2.2:80", device},
		{"device, on the link, IPv6", "[fd00::2]:80", device},
		{"except", "10.0.2.3:53", nil},
		{"except, IPv6", "[fd00::3]:53", nil},
		{"transparent", "198.51.100.7:80", stranger(unix.IPPROTO_IP, unix.IP_TRANSPARENT, "203.0.113.9:1234")},
		{"transparent, IPv6", "[2001:db8::7]:80", stranger(unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, "[2001:db8:9::9]:1234")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.dial(tt.to, tt.setup)
			f := w.next(w.plain, tt.to)
			if f.dscp() != 0 {
				t.Errorf("got DSCP %d, want 0", f.dscp())
			}
			if len(w.frames) > 0 {
				t.Error("a SYN came out to be diverted")
			}
		})
	}
}

// BenchmarkDivert makes and removes the rules.
func BenchmarkDivert(b *testing.B) {
	n := openTarget(b, Target{PID: newTarget(b, "answer", rootTarget()).pid})
	setup := Setup{Interface: "tap0", Device: tapDevice{}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("fd00::64/64")}}
	device, _, err := n.Attach(context.Background(), setup)
	if err != nil {
		b.Fatal(err)
	}
	defer device.Close()
	b.ResetTimer()
	for range b.N {
		v, err := n.Divert(context.Background(), Divert{Interface: "tap0", Gateway: gatewayMAC})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		closeFiles(v.Listeners())
		if err := v.Remove(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkDiverted sends bytes to and fro over a diverted connection, all from
// one thread: it is what the kernel takes with our rules.
func BenchmarkDiverted(b *testing.B) {
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		for _, size := range []int{1, 64 << 10} {
			b.Run(fmt.Sprintf("%d bytes to %s", size, to), func(b *testing.B) {
				w := newWorld(b, Divert{})
				guest := w.dial(to, nil)
				syn := w.next(w.frames, to)
				w.putBack(syn)
				fd, _, _ := w.accept(syn.is4())
				ends := [2]int{int(guest.Fd()), fd}
				for _, end := range ends {
					if err := errors.Join(unix.SetNonblock(end, false), unix.SetsockoptInt(end, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
						b.Fatal(err)
					}
				}
				buf := make([]byte, size)
				b.SetBytes(int64(2 * size))
				for b.Loop() {
					for i := range 2 {
						if n, err := unix.Write(ends[i], buf); n != size {
							b.Fatal(n, err)
						}
						for got := 0; got < size; {
							n, err := unix.Read(ends[1-i], buf[got:])
							if n <= 0 {
								b.Fatal(n, err)
							}
							got += n
						}
					}
				}
			})
		}
	}
}
