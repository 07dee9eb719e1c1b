package userns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/tap"
	"taproot/userns/nft"
)

// contain makes a network behind the guest's, as container engines do: a
// namespace with a cable to a bridge. The guest forwards.
func (w *world) contain(t *testing.T) *Namespace {
	t.Helper()
	if _, err := io.WriteString(w.p.in, "\n"); err != nil {
		t.Fatal(err)
	}
	line, err := w.p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	inner := openTarget(t, Target{PID: pid})
	network, err := w.ns.network(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer network.close()
	makeBridge(t, network.routes, "bridge0", "cable0", pid)
	for _, p := range []string{"172.17.0.1/16", "fd17::1/64"} {
		link, err := network.routes.link("bridge0")
		if err == nil {
			err = network.routes.addAddress(link, netip.MustParsePrefix(p))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []struct{ dir, value string }{{"/proc/sys/net/ipv4/conf", "1"}, {confPath, "1"}} {
		files, err := w.ns.make(context.Background(), []file{{f.dir, unix.O_PATH | unix.O_DIRECTORY}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeAt(int(files[0].Fd()), "all/forwarding", f.value); err != nil {
			t.Fatal(err)
		}
		closeFiles(files)
	}
	device, _, err := inner.Attach(context.Background(), Setup{
		Interface: "eth0", Device: nullDevice{},
		Addresses: []netip.Prefix{netip.MustParsePrefix("172.17.0.2/16"), netip.MustParsePrefix("fd17::2/64")},
		Routes:    defaultRoutes("172.17.0.1", "fd17::1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	device.Close()
	w.hears(t)
	return inner
}

// hears has the diversion do what Wait does about a device of the guest's.
func (w *world) hears(t *testing.T) {
	t.Helper()
	if w.diversion == nil {
		return
	}
	if changed, err := w.diversion.changed(); changed || err != nil {
		t.Fatalf("another device: got %v, %v, want false and no error", changed, err)
	}
}

// makeBridge makes a bridge with a cable, whose other end is eth0 of a process.
func makeBridge(t *testing.T, r *rtnl, bridge, cable string, pid int) {
	t.Helper()
	err := r.set(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, unix.IfInfomsg{}, func(a *netlink.AttributeEncoder) {
		a.String(unix.IFLA_IFNAME, bridge)
		a.Nested(unix.IFLA_LINKINFO, func(a *netlink.AttributeEncoder) error {
			a.String(unix.IFLA_INFO_KIND, "bridge")
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := makeVeth(r, cable, "eth0", pid); err != nil {
		t.Fatal(err)
	}
	master, err1 := r.link(bridge)
	port, err2 := r.link(cable)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := r.set(unix.RTM_SETLINK, 0, unix.IfInfomsg{Index: port}, func(a *netlink.AttributeEncoder) {
		a.Uint32(unix.IFLA_MASTER, uint32(master))
	}); err != nil {
		t.Fatal(err)
	}
	for _, link := range []int32{master, port} {
		if err := r.up(link); err != nil {
			t.Fatal(err)
		}
	}
}

// guestTables gives the guest tables of its own.
func (w *world) guestTables(t *testing.T, tables ...nft.Table) {
	t.Helper()
	if err := nft.NewConn(w.filterSocket(t)).Replace(tables); err != nil {
		t.Fatal(err)
	}
}

// Bits of a connection's state that only the guest's rules ask for.
const (
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
)

// foreign returns expressions that our own rules do without.
func foreign(t *testing.T, list ...expr.Any) nft.Expr {
	t.Helper()
	var all nft.Expr
	for _, e := range list {
		data, err := expr.Marshal(unix.NFPROTO_IPV4, e)
		if err != nil {
			t.Fatal(err)
		}
		element, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: netlink.Nested | unix.NFTA_LIST_ELEM, Data: data}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, element...)
	}
	return all
}

// engineRules returns what a container engine makes for its networks in a
// family: what they send is masqueraded, and nothing is forwarded to them but
// answers.
func (w *world) engineRules(t *testing.T, family uint8) nft.Table {
	t.Helper()
	out := onDevice(unix.NFT_META_OIF, uint32(w.diversion.link))
	return nft.Table{Family: family, Name: "engine", Chains: []nft.Chain{
		{Name: "forward", Type: "filter", Hook: unix.NF_INET_FORWARD, Rules: []nft.Rule{
			{Name: "answers", Exprs: nft.Join(ctBits(unix.NFT_CT_STATE, stateEstablished|stateRelated), nft.Accept())},
			{Name: "out", Exprs: nft.Join(out, nft.Accept())},
			{Name: "rest", Exprs: foreign(t, &expr.Verdict{Kind: expr.VerdictDrop})},
		}},
		{Name: "postrouting", Type: "nat", Hook: unix.NF_INET_POST_ROUTING, Priority: 100, Rules: []nft.Rule{
			{Name: "masquerade", Exprs: nft.Join(out, foreign(t, &expr.Masq{}))},
		}},
	}}
}

// TestDivertTranslated wants connections whose destination the guest changes, to
// one behind the device too, to be left alone: they come as the guest has them.
func TestDivertTranslated(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	inner := w.contain(t)
	for _, tt := range []struct {
		family          uint8
		service, to, us string
	}{
		{unix.NFPROTO_IPV4, "10.96.0.1:80", "198.51.100.9:80", "10.0.2.100"},
		{unix.NFPROTO_IPV6, "[fd96::1]:80", "[2001:db8::9]:80", "fd00::64"},
	} {
		table := w.engineRules(t, tt.family)
		r := ruleset{family: tt.family}
		translate := []nft.Rule{{Name: "service", Exprs: nft.Join(r.destination(addrPort(tt.service).Addr()), foreign(t,
			&expr.Immediate{Register: unix.NFT_REG_1, Data: addrPort(tt.to).Addr().AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(tt.family), RegAddrMin: unix.NFT_REG_1}))}}
		table.Chains = append(table.Chains,
			nft.Chain{Name: "prerouting", Type: "nat", Hook: unix.NF_INET_PRE_ROUTING, Priority: -100, Rules: translate},
			nft.Chain{Name: "output", Type: "nat", Hook: unix.NF_INET_LOCAL_OUT, Priority: -100, Rules: translate})
		w.guestTables(t, table)
		for name, ns := range map[string]*Namespace{"local": w.ns, "nested": inner} {
			t.Run(name+" to "+tt.service, func(t *testing.T) {
				w.t = t
				s := w.dialIn(ns, tt.service, nil)
				syn := w.next(w.plain, tt.to)
				if from, _ := syn.ends(); from.Addr().String() != tt.us || syn.dscp() != 0 {
					t.Errorf("got a SYN from %v with DSCP %d, want %s and 0", from, syn.dscp(), tt.us)
				}
				w.answer(syn, 0x12) // SYN, ACK
				if err := connected(t, s); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// answer sends a segment without data to the source of a SYN.
func (w *world) answer(syn frame, flags byte) {
	w.t.Helper()
	tcp := syn.tcp()
	a := make([]byte, 20)
	copy(a, tcp[2:4])
	copy(a[2:], tcp[:2])
	binary.BigEndian.PutUint32(a[4:], 1000)
	binary.BigEndian.PutUint32(a[8:], binary.BigEndian.Uint32(tcp[4:])+1)
	a[12], a[13] = 5<<4, flags
	binary.BigEndian.PutUint16(a[14:], 65535)
	f := make(frame, ethernet, ethernet+60)
	e := f[tap.HeaderLen:]
	copy(e, syn[tap.HeaderLen+6:tap.HeaderLen+12])
	copy(e[6:], syn[tap.HeaderLen:tap.HeaderLen+6])
	copy(e[12:], syn[tap.HeaderLen+12:tap.HeaderLen+14])
	var pseudo []byte
	if ip := syn[ethernet:]; syn.is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(h[2:], 40)
		copy(h[12:], ip[16:20])
		copy(h[16:], ip[12:16])
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		f = append(f, h...)
		pseudo = append(append(pseudo, h[12:20]...), 0, unix.IPPROTO_TCP, 0, 20)
	} else {
		h := make([]byte, 40)
		h[0], h[5], h[6], h[7] = 0x60, 20, unix.IPPROTO_TCP, 64
		copy(h[8:], ip[24:40])
		copy(h[24:], ip[8:24])
		f = append(f, h...)
		pseudo = append(append(pseudo, h[8:40]...), 0, unix.IPPROTO_TCP, 0, 20)
	}
	binary.BigEndian.PutUint16(a[16:], checksum(append(pseudo, a...)))
	if _, err := w.device.Write(append(f, a...)); err != nil {
		w.t.Fatal(err)
	}
}

// checksum is RFC 1071's, of an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// connected waits for the end of a connect and returns its error.
func connected(t *testing.T, f *os.File) error {
	t.Helper()
	fd := int(f.Fd())
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(p, int(testTimeout.Milliseconds())); n != 1 {
		t.Fatalf("connect: still waiting, %v", err)
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		t.Fatal(err)
	}
	if errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

// TestDivertNested diverts connections from a network behind the guest, with the
// rules of a container engine and without.
func TestDivertNested(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	for _, engine := range []bool{true, false} {
		t.Run("engine "+strconv.FormatBool(engine), func(t *testing.T) {
			w := newWorld(t, Divert{})
			if !w.diversion.Nested() {
				t.Fatal("nested: got false")
			}
			inner := w.contain(t)
			if engine {
				w.guestTables(t, w.engineRules(t, unix.NFPROTO_IPV4), w.engineRules(t, unix.NFPROTO_IPV6))
			}
			for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
				source := "172.17.0.2"
				if to[0] == '[' {
					source = "fd17::2"
				}
				t.Run("through to "+to, func(t *testing.T) {
					w.t = t
					w.converseIn(t, inner, to, mark.Nested, nil)
				})
				t.Run("local to "+to, func(t *testing.T) {
					w.t = t
					w.converse(t, to, nil)
				})
				t.Run("refused by "+to, func(t *testing.T) {
					w.t = t
					s := w.dialIn(inner, to, nil)
					syn := w.next(w.frames, to)
					if from, _ := syn.ends(); from.Addr().String() != source {
						t.Errorf("got a SYN from %v, want %s", from, source)
					}
					w.answer(syn, 0x14) // RST, ACK
					if err := connected(t, s); err != syscall.ECONNREFUSED {
						t.Errorf("got %v, want %v", err, syscall.ECONNREFUSED)
					}
				})
				t.Run("by frames to "+to, func(t *testing.T) {
					w.t = t
					s := w.dialIn(inner, to, nil)
					syn := w.next(w.frames, to)
					w.answer(syn, 0x12) // SYN, ACK
					if err := connected(t, s); err != nil {
						t.Fatal(err)
					}
					if from, _ := w.next(w.others, to).ends(); from.Addr().String() != source {
						t.Errorf("got an answer from %v, want %s", from, source)
					}
				})
			}
		})
	}
}

// TestDivertNestedLater wants what nested networks need to be made when there may be
// some, whether that is before the diversion or after, and not sooner.
func TestDivertNestedLater(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	w.wantNested(t, "alone", false)
	w.contain(t)
	w.wantNested(t, "with another device", true)
	if err := w.diversion.Remove(); err != nil {
		t.Fatal(err)
	}
	closeFiles(w.diversion.Listeners())
	w.divert(Divert{})
	w.wantNested(t, "with another device from the start", true)
}

// TestDivertNestedMarks wants what is made later not to come between ours and what
// the guest has at the same place, which is called before and changes marks.
func TestDivertNestedMarks(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	mark := nft.Join(nft.Immediate(native(7)), nft.StoreMeta(unix.NFT_META_MARK))
	for _, f := range []uint8{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		w.guestTables(t, nft.Table{Family: f, Name: "marks", Chains: []nft.Chain{
			{Name: "out", Type: "route", Hook: unix.NF_INET_LOCAL_OUT, Priority: last, Rules: []nft.Rule{{Name: "mark", Exprs: mark}}},
		}})
	}
	for _, nested := range []bool{false, true} {
		w.wantNested(t, "with marks", nested)
		for _, to := range []string{"198.51.100.7:80", "[2001:db8::7]:80"} {
			w.converse(t, to, nil)
		}
		w.hears(t)
	}
}

// TestDivertNestedMeanwhile wants connections whose source the guest translates to go
// by frames until it is heard of, and those that are diverted to go on after.
func TestDivertNestedMeanwhile(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	for _, tt := range []struct {
		to     string
		family uint8
	}{{"198.51.100.7:80", unix.NFPROTO_IPV4}, {"[2001:db8::7]:80", unix.NFPROTO_IPV6}} {
		t.Run("to "+tt.to, func(t *testing.T) {
			w := newWorld(t, Divert{})
			guest := w.dial(tt.to, nil)
			syn := w.next(w.frames, tt.to)
			w.putBack(syn)
			fd, _, _ := w.accept(syn.is4())
			w.guestTables(t, w.engineRules(t, tt.family))
			w.dial(tt.to, nil)
			if f := w.next(w.plain, tt.to); f.dscp() != 0 {
				t.Errorf("translated: got DSCP %d, want 0", f.dscp())
			}
			w.hears(t)
			w.wantNested(t, "with another table", true)
			exchange(t, guest, fd)
			w.converse(t, tt.to, nil)
		})
	}
}

// wantNested wants what nested networks need to be there or not.
func (w *world) wantNested(t *testing.T, when string, want bool) {
	t.Helper()
	d := w.diversion
	d.mu.Lock()
	defer d.mu.Unlock()
	demux, err1 := readAt(d.conf[unix.AF_INET], "../tcp_early_demux")
	whole, err2 := d.hasRules()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	chains := d.tables()[0].Chains
	made := slices.ContainsFunc(chains, func(c nft.Chain) bool { return c.Name == "nested" })
	if !whole || made != want || demux == "0" != want {
		t.Errorf("%s: got whole %v, nested %v, tcp_early_demux %s, want all and nested %v", when, whole, made, demux, want)
	}
}

// TestDivertNestedElsewhere wants SYNs of networks that are not to be diverted to
// leave with the source that the guest translates it to.
func TestDivertNestedElsewhere(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{Nested: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")}})
	inner := w.contain(t)
	w.guestTables(t, w.engineRules(t, unix.NFPROTO_IPV4), w.engineRules(t, unix.NFPROTO_IPV6))
	for to, want := range map[string]string{"198.51.100.7:80": "10.0.2.100", "[2001:db8::7]:80": "fd00::64"} {
		w.dialIn(inner, to, nil)
		if from, _ := w.next(w.plain, to).ends(); from.Addr().String() != want {
			t.Errorf("got a SYN from %v, want %s", from, want)
		}
	}
}

// TestDivertFirewall has the guest drop what comes in by itself: SYNs that are put
// back too. Their connections must work by frames then.
func TestDivertFirewall(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	inner := w.contain(t)
	for _, tt := range []struct {
		family uint8
		to     string
	}{{unix.NFPROTO_IPV4, "198.51.100.7:80"}, {unix.NFPROTO_IPV6, "[2001:db8::7]:80"}} {
		w.guestTables(t, nft.Table{Family: tt.family, Name: "firewall", Chains: []nft.Chain{
			{Name: "input", Type: "filter", Hook: unix.NF_INET_LOCAL_IN, Rules: []nft.Rule{
				{Name: "answers", Exprs: nft.Join(ctBits(unix.NFT_CT_STATE, stateEstablished|stateRelated), nft.Accept())},
				{Name: "syn", Exprs: nft.Join(isTCP(), bare(), foreign(t, &expr.Verdict{Kind: expr.VerdictDrop}))},
			}},
		}})
		for name, ns := range map[string]*Namespace{"local": w.ns, "nested": inner} {
			t.Run(name+" to "+tt.to, func(t *testing.T) {
				w.t = t
				s := w.dialIn(ns, tt.to, nil)
				syn := w.next(w.frames, tt.to)
				w.putBack(syn)
				w.answer(syn, 0x12) // SYN, ACK
				if err := connected(t, s); err != nil {
					t.Fatal(err)
				}
				source, _ := syn.ends()
				eventually(t, "an answer", func() bool {
					from, _ := w.next(w.others, tt.to).ends() // others still end
					return from == source
				})
			})
		}
	}
}
