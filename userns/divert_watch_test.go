package userns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// ourTables names the tables of the diversion.
func ourTables() []nft.Table {
	return []nft.Table{{Family: unix.NFPROTO_IPV4, Name: mark.Table}, {Family: unix.NFPROTO_IPV6, Name: mark.Table}}
}

// filterSocket returns a socket for nf_tables and connection tracking of the
// guest's namespace.
func (w *world) filterSocket(t *testing.T) *kernelSocket {
	t.Helper()
	files, err := w.ns.Sockets(context.Background(), []Socket{{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_NETFILTER}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := newKernelSocket(files[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// guestRemoves removes tables as the guest would.
func (w *world) guestRemoves(t *testing.T, tables ...nft.Table) {
	t.Helper()
	if err := nft.NewConn(w.filterSocket(t)).Remove(tables); err != nil {
		t.Fatal(err)
	}
}

// guestRoutes changes routing as the guest would.
func (w *world) guestRoutes(t *testing.T, change func(r *rtnl) error) {
	t.Helper()
	network, err := w.ns.network(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer network.close()
	if err := change(network.routes); err != nil {
		t.Fatal(err)
	}
}

// down takes a device down.
func (r *rtnl) down(name string) error {
	link, err := r.link(name)
	if err != nil {
		return err
	}
	return r.set(unix.RTM_SETLINK, 0, unix.IfInfomsg{Index: link, Change: unix.IFF_UP}, func(*netlink.AttributeEncoder) {})
}

// TestDivertWait wants Wait to tell of what matters, and Restore to mend it.
func TestDivertWait(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	addresses := []string{"198.51.100.7:80", "[2001:db8::7]:80"}
	defaults := func(r *rtnl) error {
		link, err := r.link("tap0")
		if err != nil {
			return err
		}
		setup := attachSetup(w.p)
		if err := r.up(link); err != nil {
			return err
		}
		for _, p := range setup.Addresses {
			if err := unless(r.addAddress(link, p), unix.EEXIST); err != nil {
				return fmt.Errorf("%v: %w", p, err)
			}
		}
		for _, route := range defaultRoutes("10.0.2.2", "fd00::2") {
			if err := unless(r.addRoute(link, route), unix.EEXIST); err != nil {
				return fmt.Errorf("%v: %w", route, err)
			}
		}
		for _, s := range []string{"10.0.2.2", "fd00::2"} {
			if err := r.neighbour(unix.RTM_NEWNEIGH, netlink.Create, link, addrOf(s), gatewayMAC); err != nil {
				return err
			}
		}
		return nil
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T)
	}{
		{"tables", func(t *testing.T) { w.guestRemoves(t, ourTables()...) }},
		{"one table", func(t *testing.T) { w.guestRemoves(t, ourTables()[1:]...) }},
		{"other rules", func(t *testing.T) { w.guestTables(t, ourTables()...) }},
		{"routing rule", func(t *testing.T) {
			w.guestRoutes(t, func(r *rtnl) error {
				return r.routingRule(unix.RTM_DELRULE, 0, w.diversion.routingRules(unix.AF_INET)[0])
			})
		}},
		{"routing rule, IPv6", func(t *testing.T) {
			w.guestRoutes(t, func(r *rtnl) error {
				return r.routingRule(unix.RTM_DELRULE, 0, w.diversion.routingRules(unix.AF_INET6)[1])
			})
		}},
		{"device", func(t *testing.T) {
			w.guestRoutes(t, func(r *rtnl) error { return r.down("tap0") })
			w.guestRoutes(t, defaults)
		}},
		{"loopback", func(t *testing.T) {
			w.guestRoutes(t, func(r *rtnl) error { return r.down("lo") })
			w.guestRoutes(t, func(r *rtnl) error { return r.up(loopbackIndex) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			changed := make(chan error, 1)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() { changed <- w.diversion.Wait(ctx) }()
			tt.change(t)
			select {
			case err := <-changed:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(testTimeout):
				t.Fatal("wait: not woken")
			}
			if err := w.diversion.Restore(context.Background()); err != nil {
				t.Fatal(err)
			}
			for _, to := range addresses {
				w.converse(t, to, nil)
				bound := w.dial(to, func(fd int) error { return unix.BindToDevice(fd, "tap0") })
				if f := w.next(w.plain, to); f.dscp() != 0 {
					t.Errorf("bound to the device: got DSCP %d, want 0", f.dscp())
				}
				bound.Close()
			}
		})
	}
}

// TestDivertWaitQuiet wants Wait to sleep on while others change what is theirs.
func TestDivertWaitQuiet(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	w.guestTables(t, w.engineRules(t, unix.NFPROTO_IPV4), w.engineRules(t, unix.NFPROTO_IPV6))
	w.guestRule(t, 5)
	w.guestRoutes(t, func(r *rtnl) error { return r.setMTU(w.diversion.link, 1400) })
	if err := w.diversion.Restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	if changed, err := w.diversion.changed(); changed || err != nil {
		t.Errorf("got %v and error %v, want false", changed, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.diversion.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: got %v, want %v", err, context.Canceled)
	}
}

// TestDivertFlush loses the rules under a connection and wants it to go on when
// they are back.
func TestDivertFlush(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
		guest := w.dial(to, nil)
		syn := w.next(w.frames, to)
		w.putBack(syn)
		fd, _, _ := w.accept(syn.is4())
		w.guestRemoves(t, ourTables()...)
		if _, err := unix.Write(int(guest.Fd()), []byte{0}); err != nil {
			t.Fatal(err)
		}
		w.next(w.others, to) // it goes the wrong way
		if err := w.diversion.Restore(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(fd, false); err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Read(fd, make([]byte, 2)); n != 1 {
			t.Fatalf("got %d bytes and error %v, want 1", n, err)
		}
		exchange(t, guest, fd)
	}
}

// traces returns all that a diversion leaves in a namespace.
func (w *world) traces(t *testing.T) []string {
	t.Helper()
	var all []string
	w.guestRoutes(t, func(r *rtnl) error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			for _, kind := range []netlink.HeaderType{unix.RTM_GETRULE, unix.RTM_GETROUTE} {
				answers, err := r.execute(kind, netlink.Dump, unix.RtMsg{Family: family}, func(*netlink.AttributeEncoder) {})
				if err != nil {
					return err
				}
				for _, m := range answers {
					if m.Data[5] == unix.RTPROT_KERNEL { // they come and go
						continue
					}
					all = append(all, fmt.Sprintf("%d: % x", m.Header.Type, stable(m)))
				}
			}
			answers, err := r.execute(unix.RTM_GETNEIGH, netlink.Dump, unix.NdMsg{Family: family}, func(*netlink.AttributeEncoder) {})
			if err != nil {
				return err
			}
			for _, m := range answers {
				if m.Data[8]&unix.NUD_PERMANENT != 0 {
					all = append(all, fmt.Sprintf("neighbour % x", m.Data[:32]))
				}
			}
		}
		return nil
	})
	files, err := w.ns.make(context.Background(), []file{{"/proc/sys/net/ipv4/conf", unix.O_PATH | unix.O_DIRECTORY}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	for _, name := range []string{"tap0/accept_local", "tap0/rp_filter", "all/accept_local", "all/rp_filter"} {
		value, err := readAt(files[0], name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name+"="+value)
	}
	all = append(all, fmt.Sprint("rules ", w.countRules(t)))
	slices.Sort(all)
	return all
}

// countRules returns how many rules our tables have in a namespace.
func (w *world) countRules(t *testing.T) (n int) {
	t.Helper()
	c := nft.NewConn(w.filterSocket(t))
	for _, table := range ourTables() {
		in, err := c.Count(&table)
		if err != nil {
			t.Fatal(err)
		}
		n += in
	}
	return n
}

// stable returns a routing message without what changes by itself.
func stable(m netlink.Message) []byte {
	b := slices.Clone(m.Data[:unix.SizeofRtMsg])
	a, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofRtMsg:])
	for err == nil && a.Next() {
		if a.Type() != unix.RTA_CACHEINFO {
			b = append(b, a.Bytes()...)
		}
	}
	return b
}

// TestDivertRemove wants everything to be as it was.
func TestDivertRemove(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	for _, filter := range []string{"0", "1", "2"} {
		w := newUndiverted(t)
		files, err := w.ns.make(context.Background(), []file{{"/proc/sys/net/ipv4/conf", unix.O_PATH | unix.O_DIRECTORY}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeAt(int(files[0].Fd()), "all/rp_filter", filter); err != nil {
			t.Fatal(err)
		}
		before := w.traces(t)
		w.divert(Divert{})
		w.converse(t, "198.51.100.7:80", nil)
		during := w.traces(t)
		if err := w.diversion.Remove(); err != nil {
			t.Error(err)
		}
		closeFiles(append(files, w.diversion.Listeners()...))
		if after := w.traces(t); !slices.Equal(after, before) || slices.Equal(before, during) {
			t.Errorf("rp_filter %s: got\n%s\nwant\n%s", filter, strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
		if err := w.diversion.Wait(context.Background()); err == nil {
			t.Error("wait after the end: got no error")
		}
	}
}

// TestDivertRemoveNothing removes what was left for later and never made, or
// could not be, without a complaint.
func TestDivertRemoveNothing(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newUndiverted(t)
	for _, name := range []string{"tap0", "tap7"} {
		d, err := w.ns.Divert(context.Background(), Divert{Interface: name, Gateway: gatewayMAC, Later: true})
		if err != nil {
			t.Fatal(err)
		}
		if name == "tap7" && d.Restore(context.Background()) == nil {
			t.Error("restore without a device: got no error")
		}
		if err := d.Remove(); err != nil {
			t.Errorf("remove: %v", err)
		}
		closeFiles(d.Listeners())
	}
}

// TestDivertRemoveRest removes what is there although the device is gone.
func TestDivertRemoveRest(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newUndiverted(t)
	d, err := w.ns.Divert(context.Background(), Divert{Interface: "tap0", Gateway: gatewayMAC})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(d.Listeners())
	w.device.Close()
	eventually(t, "the device is gone", func() bool { return d.Restore(context.Background()) != nil })
	if err := d.Remove(); err != nil {
		t.Error(err)
	}
	if n := w.countRules(t); n != 0 {
		t.Errorf("got %d rules, want none", n)
	}
}
