package userns

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"taproot/tap"
	"taproot/userns/nft"
)

// client begins a connection to a guest's address as an engine does: from a socket
// inside that stands for a client. It returns the socket, and how many SYNs of it
// were given to the device.
func (w *world) client(from, to string) (*os.File, int) {
	w.t.Helper()
	source, target := addrPort(from), addrPort(to)
	s := ClientSocket(family(source.Addr()))
	s.Bind = source
	files, err := w.ns.Sockets(context.Background(), []Socket{s})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { files[0].Close() })
	fd := int(files[0].Fd())
	unix.SetNonblock(fd, true)
	if err := unix.Connect(fd, sockaddrOf(target)); err != unix.EINPROGRESS {
		w.t.Fatalf("connect: got %v, want %v", err, unix.EINPROGRESS)
	}
	return files[0], w.enter(source.Addr().Is4())
}

// enter gives the device the SYNs of clients that wait to be copied.
func (w *world) enter(is4 bool) (n int) {
	w.t.Helper()
	f := w.diversion.Clients()[0]
	if !is4 {
		f = w.diversion.Clients()[1]
	}
	err := raw(w.t, f, func(s int) error {
		for b := make([]byte, 1<<12); ; n++ {
			size, _, err := unix.Recvfrom(s, b, unix.MSG_DONTWAIT)
			if err == unix.EAGAIN {
				return nil
			}
			if err != nil {
				return err
			}
			w.putIn(frame(b[:size]))
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// putIn writes a SYN to the device, as one from outside.
func (w *world) putIn(f frame) {
	w.t.Helper()
	e := f[tap.HeaderLen:]
	copy(e, []byte{0x02, 0, 0, 1, 2, 3})
	copy(e[6:], gatewayMAC)
	if _, err := w.device.Write(f); err != nil {
		w.t.Fatal(err)
	}
}

// serve returns a listener of the guest's.
func (w *world) serve(ns *Namespace, at string, setup func(fd int) error) *os.File {
	w.t.Helper()
	address := addrPort(at)
	files, err := ns.Sockets(context.Background(), []Socket{{
		Family: family(address.Addr()), Type: unix.SOCK_STREAM, Bind: address, Listen: true, V6Only: address.Addr().Is6(),
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { files[0].Close() })
	if setup != nil {
		if err := setup(int(files[0].Fd())); err != nil {
			w.t.Fatal(err)
		}
	}
	return files[0]
}

// accepted returns the next connection of a guest's listener, and its peer.
func (w *world) accepted(l *os.File) (fd int, peer netip.AddrPort) {
	w.t.Helper()
	fd, from, err := unix.Accept4(int(l.Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Close(fd) })
	return fd, addrPortOf(from)
}

// met wants a client and a connection of the guest's to be each other's ends, and
// nothing of them to be a frame.
func (w *world) met(t *testing.T, client *os.File, l *os.File, want string) {
	t.Helper()
	if err := connected(t, client); err != nil {
		t.Fatal(err)
	}
	fd, peer := w.accepted(l)
	if peer.String() != want {
		t.Errorf("got a connection from %v, want %s", peer, want)
	}
	exchange(t, client, fd)
	for len(w.others) > 0 {
		if a, b := (<-w.others).ends(); b.String() == want {
			t.Errorf("a frame came out, from %v to %v", a, b)
		}
	}
}

// TestDivertClients connects clients to servers of all kinds, and wants each to see
// the client's address.
func TestDivertClients(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	toDevice := func(fd int) error { return unix.BindToDevice(fd, "tap0") }
	for i, tt := range []struct {
		name, at string
		setup    func(fd int) error
	}{
		{"any address", "0.0.0.0:80", nil},
		{"one address", "10.0.2.100:81", nil},
		{"device", "0.0.0.0:82", toDevice},
		{"any address, IPv6", "[::]:83", nil},
		{"one address, IPv6", "[fd00::64]:84", nil},
		{"device, IPv6", "[::]:85", toDevice},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			from, to := "198.51.100.7:", "10.0.2.100:"
			if addrPort(tt.at).Addr().Is6() {
				from, to = "[2001:db8::7]:", "[fd00::64]:"
			}
			from += strconv.Itoa(4000 + i)
			l := w.serve(w.ns, tt.at, tt.setup)
			client, syns := w.client(from, to+strconv.Itoa(80+i))
			if syns != 1 {
				t.Errorf("got %d SYNs at once, want 1", syns)
			}
			w.met(t, client, l, from)
		})
	}
	t.Run("refused", func(t *testing.T) {
		w.t = t
		for _, tt := range []struct{ from, to string }{{"198.51.100.7:5000", "10.0.2.100:9"}, {"[2001:db8::7]:5000", "[fd00::64]:9"}} {
			client, _ := w.client(tt.from, tt.to)
			if err := connected(t, client); err != unix.ECONNREFUSED {
				t.Errorf("got %v, want %v", err, unix.ECONNREFUSED)
			}
		}
	})
}

// TestDivertClientsFirewall has the guest treat what comes from outside otherwise
// than what is its own: clients must not seem to be of its own.
func TestDivertClientsFirewall(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	const closed, open = 90, 91
	for _, tt := range []struct {
		family   uint8
		from, to string
	}{{unix.NFPROTO_IPV4, "198.51.100.7:", "10.0.2.100:"}, {unix.NFPROTO_IPV6, "[2001:db8::7]:", "[fd00::64]:"}} {
		port := nft.Join(isTCP(), nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), nft.Is([]byte{0, closed}))
		w.guestTables(t, nft.Table{Family: tt.family, Name: "firewall", Chains: []nft.Chain{
			{Name: "input", Type: "filter", Hook: unix.NF_INET_LOCAL_IN, Rules: []nft.Rule{
				{Name: "lo", Exprs: nft.Join(onDevice(unix.NFT_META_IIF, loopbackIndex), nft.Accept())},
				{Name: "answers", Exprs: nft.Join(ctBits(unix.NFT_CT_STATE, stateEstablished|stateRelated), nft.Accept())},
				{Name: "closed", Exprs: nft.Join(port, foreign(t, &expr.Verdict{Kind: expr.VerdictDrop}))},
			}},
		}})
		t.Run("to "+tt.to, func(t *testing.T) {
			w.t = t
			for p, want := range map[int]bool{closed: false, open: true} {
				from, to := tt.from+strconv.Itoa(6000+p), tt.to+strconv.Itoa(p)
				l := w.serve(w.ns, to, nil)
				client, _ := w.client(from, to)
				if want {
					w.met(t, client, l, from)
					continue
				}
				// What is sent again shows that the one before was answered by nothing.
				eventually(t, "another SYN", func() bool { return w.enter(addrPort(from).Addr().Is4()) > 0 })
				p := []unix.PollFd{{Fd: int32(client.Fd()), Events: unix.POLLOUT}}
				if n, _ := unix.Poll(p, 0); n != 0 {
					t.Error("a client got past the guest's firewall")
				}
			}
		})
	}
}

// TestDivertClientsNested has the guest lead a port to a network behind it, by rules
// for what comes from outside.
func TestDivertClientsNested(t *testing.T) {
	if !asUserWithTUN(t) {
		return
	}
	w := newWorld(t, Divert{})
	inner := w.contain(t)
	for i, tt := range []struct {
		family       uint8
		from, to, at string
	}{
		{unix.NFPROTO_IPV4, "198.51.100.7:7000", "10.0.2.100:8080", "172.17.0.2:80"},
		{unix.NFPROTO_IPV6, "[2001:db8::7]:7000", "[fd00::64]:8080", "[fd17::2]:80"},
	} {
		at := addrPort(tt.at)
		port := nft.Join(isTCP(), nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2), nft.Is([]byte{0x1f, 0x90}))
		translate := []nft.Rule{{Name: "publish", Exprs: nft.Join(port, foreign(t,
			&expr.Immediate{Register: unix.NFT_REG_1, Data: at.Addr().AsSlice()},
			&expr.Immediate{Register: unix.NFT_REG_2, Data: []byte{0, 80}},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(tt.family), RegAddrMin: unix.NFT_REG_1, RegProtoMin: unix.NFT_REG_2, Specified: true}))}}
		engine := w.engineRules(t, tt.family)
		forward := &engine.Chains[0]
		forward.Rules = append([]nft.Rule{{Name: "published", Exprs: nft.Join(ctBits(unix.NFT_CT_STATUS, 1<<5), nft.Accept())}}, forward.Rules...)
		w.guestTables(t, engine, nft.Table{Family: tt.family, Name: "publish", Chains: []nft.Chain{
			{Name: "prerouting", Type: "nat", Hook: unix.NF_INET_PRE_ROUTING, Priority: -100, Rules: translate},
		}})
		t.Run("to "+tt.to, func(t *testing.T) {
			w.t = t
			l := w.serve(inner, tt.at, nil)
			for j := range 3 {
				from := netip.AddrPortFrom(addrPort(tt.from).Addr(), uint16(7000+10*i+j)).String()
				client, _ := w.client(from, tt.to)
				w.met(t, client, l, from)
			}
		})
	}
}
