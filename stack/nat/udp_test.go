package nat

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"taproot/internal/socket"
	"taproot/stack/flow"
	"taproot/test/settle"

	"golang.org/x/sys/unix"
)

func TestUDPThereAndBack(t *testing.T) {
	for _, f := range families {
		for _, size := range []int{0, 1, 1200, 1473, 65507} {
			t.Run(f.name, func(t *testing.T) {
				u, guest := startUDP(t)
				server := listen(t, f.loopback)
				initiator := netip.AddrPortFrom(f.guest, freePort(t))
				target := netip.AddrPortFrom(f.gateway, portOf(server))
				question, answer := strings.Repeat("q", size), strings.Repeat("a", size)

				u.Handle(datagram(initiator, target, question))
				got, source := read(t, server)
				if got != question {
					t.Errorf("question: got %d bytes, want %d", len(got), size)
				}
				if source.Port() != initiator.Port() {
					t.Errorf("port on the host: got %d, want the guest's %d", source.Port(), initiator.Port())
				}
				write(t, server, source, answer)
				want := received{target, initiator, answer, 0}
				if got := next(t, guest.datagrams); got != want {
					t.Errorf("answer: got %v %v %d bytes %d, want %v %v %d bytes 0",
						got.source, got.destination, len(got.payload), got.segment, target, initiator, size)
				}
				for f := range u.cfg.Flows.All() {
					if out, in := f.ToTarget.Load(), f.ToInitiator.Load(); out != int64(size) || in != int64(size) {
						t.Errorf("counters: got %d and %d, want %d", out, in, size)
					}
				}
			})
		}
	}
}

// RFC 4787 REQ-1: one mapping for all destinations.
func TestUDPOneMapping(t *testing.T) {
	u, _ := startUDP(t)
	a, b := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	initiator := netip.AddrPortFrom(guest4, freePort(t))
	for _, server := range []*net.UDPConn{a, b} {
		u.Handle(datagram(initiator, netip.AddrPortFrom(gateway4, portOf(server)), "x"))
	}
	_, sourceA := read(t, a)
	_, sourceB := read(t, b)
	if sourceA != sourceB {
		t.Errorf("source on the host: got %v and %v, want the same", sourceA, sourceB)
	}
	if got := u.cfg.Flows.Len(flow.UDP); got != 2 {
		t.Errorf("flows: got %d, want 2", got)
	}
	wantMappings(t, &u.mapper, "two destinations", 1)
}

// RFC 4787 REQ-3: the guest's port where it is free, else another.
func TestUDPPortTaken(t *testing.T) {
	u, guest := startUDP(t)
	taken, server := listen(t, "0.0.0.0:0"), listen(t, "127.0.0.1:0")
	initiator := netip.AddrPortFrom(guest4, portOf(taken))
	target := netip.AddrPortFrom(gateway4, portOf(server))
	u.Handle(datagram(initiator, target, "x"))
	_, source := read(t, server)
	if source.Port() == initiator.Port() {
		t.Errorf("port on the host: got %d, which is taken", source.Port())
	}
	write(t, server, source, "y")
	if got, want := next(t, guest.datagrams), (received{target, initiator, "y", 0}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestUDPFiltersStrangers(t *testing.T) {
	u, guest := startUDP(t)
	server, stranger := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	u.Handle(datagram(netip.AddrPortFrom(guest4, freePort(t)), netip.AddrPortFrom(gateway4, portOf(server)), "x"))
	_, mapped := read(t, server)
	write(t, stranger, mapped, "boo")
	write(t, server, mapped, "hello")
	if got := next(t, guest.datagrams); got.payload != "hello" {
		t.Errorf("got %q, want only the answer", got.payload)
	}
	if got := u.Stats.Filtered.Load(); got != 1 {
		t.Errorf("filtered: got %d, want 1", got)
	}
}

// RFC 4787 REQ-8: another port of an address that was sent to may answer, but
// not where that address is known to the guest by another name.
func TestInbound(t *testing.T) {
	u, _ := newTestUDP(t)
	defer u.close()
	guest := netip.AddrPortFrom(guest4, freePort(t))
	for _, destination := range []string{"198.51.100.1:53", "198.51.100.1:54", "10.0.2.2:69"} {
		if _, err := u.openPeer(pair{guest, netip.MustParseAddrPort(destination)}); err != nil {
			t.Fatal(err)
		}
	}
	mp := u.mappingOf(guest)
	for _, test := range []struct {
		source, seen string
		ok           bool
	}{
		{"198.51.100.1:53", "198.51.100.1:53", true},
		{"198.51.100.1:1000", "198.51.100.1:1000", true},
		{"198.51.100.2:53", "", false},
		{"127.0.0.1:69", "10.0.2.2:69", true},
		{"127.0.0.1:1000", "", false},
		{"10.0.2.2:69", "", false},
	} {
		_, seen, ok := u.inbound(mp, netip.MustParseAddrPort(test.source))
		if ok != test.ok || ok && seen.String() != test.seen {
			t.Errorf("%s: got %v %v, want %v %v", test.source, seen, ok, test.seen, test.ok)
		}
	}
	for range 2 { // the address counts until the last flow to it is gone
		p := mp.peers[netip.MustParseAddrPort("198.51.100.1:53")]
		if p == nil {
			p = mp.peers[netip.MustParseAddrPort("198.51.100.1:54")]
		}
		if _, _, ok := u.inbound(mp, netip.MustParseAddrPort("198.51.100.1:1")); !ok {
			t.Error("address of a live flow: got filtered")
		}
		u.mu.Lock()
		u.detachLocked(p)
		u.mu.Unlock()
		p.flow.Close()
	}
	if _, _, ok := u.inbound(mp, netip.MustParseAddrPort("198.51.100.1:1")); ok {
		t.Error("address without flows: got through")
	}
}

// A refused datagram is answered as the target itself would, with the
// addresses and ports that the guest used.
func TestUDPRefused(t *testing.T) {
	u, guest := startUDP(t)
	port := freePort(t)
	initiator := netip.AddrPortFrom(guest4, 40000)
	u.Handle(datagram(initiator, netip.AddrPortFrom(gateway4, port), "hello"))
	want := []byte{
		// IPv4: 61 bytes, TOS 0xc0, DF, TTL 64, ICMP, 10.0.2.2 > 10.0.2.100
		0x45, 0xc0, 0, 61, 0, 0, 0x40, 0, 64, 1, 0, 0, 10, 0, 2, 2, 10, 0, 2, 100,
		// port unreachable
		3, 3, 0, 0, 0, 0, 0, 0,
		// the datagram: 33 bytes, 10.0.2.100 > 10.0.2.2
		0x45, 0, 0, 33, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 2, 100, 10, 0, 2, 2,
		40000 >> 8, 40000 & 0xff, byte(port >> 8), byte(port), 0, 13, 0, 0,
		'h', 'e', 'l', 'l', 'o',
	}
	binary.BigEndian.PutUint16(want[10:], slowChecksum(want[:20]))
	binary.BigEndian.PutUint16(want[28+10:], slowChecksum(want[28:48]))
	binary.BigEndian.PutUint16(want[22:], slowChecksum(want[20:]))
	if got := next(t, guest.packets); string(got) != string(want) {
		t.Errorf("got  % x\nwant % x", got, want)
	}
}

func TestUDPRefused6(t *testing.T) {
	u, guest := startUDP(t)
	initiator, target := netip.AddrPortFrom(guest6, 40000), netip.AddrPortFrom(gateway6, freePort(t))
	u.Handle(datagram(initiator, target, "hello"))
	got := parseError(t, next(t, guest.packets))
	if got.source != gateway6 || got.destination != guest6 || got.typ != icmp6Unreachable || got.code != 4 {
		t.Errorf("got %+v, want port unreachable from the gateway", got)
	}
	want := udpOriginal(initiator, target, header{5, 64, 0}, []byte("hello"))
	if string(got.quoted) != string(want) {
		t.Errorf("quoted: got % x, want % x", got.quoted, want)
	}
}

// An error about one target must not cost another target's datagram.
func TestUDPRefusedBesides(t *testing.T) {
	u, guest := startUDP(t)
	server := listen(t, "127.0.0.1:0")
	initiator := netip.AddrPortFrom(guest4, freePort(t))
	refused := netip.AddrPortFrom(gateway4, freePort(t))
	for range 200 {
		u.Handle(datagram(initiator, refused, "x"))
		u.Handle(datagram(initiator, netip.AddrPortFrom(gateway4, portOf(server)), "y"))
		if got, _ := read(t, server); got != "y" {
			t.Fatalf("got %q, want %q", got, "y")
		}
	}
	next(t, guest.packets)
	if got := u.Stats.Failed.Load(); got != 0 {
		t.Errorf("failed: got %d, want 0", got)
	}
}

func TestUDPSpoofed(t *testing.T) {
	u, guest := newTestUDP(t)
	defer u.close()
	u.Handle(datagram(netip.MustParseAddrPort("10.0.2.101:1000"), netip.MustParseAddrPort("198.51.100.1:80"), "x"))
	_, peers := u.sizes()
	if got := u.Stats.Spoofed.Load(); got != 1 || len(guest.packets) != 0 || peers != 0 {
		t.Errorf("got %d counted, %d packets, %d flows, want 1, 0, 0", got, len(guest.packets), peers)
	}
}

func TestErrorsAreLimited(t *testing.T) {
	u, guest := newTestUDP(t)
	defer u.close()
	d := datagram(netip.AddrPortFrom(guest4, 1000), netip.MustParseAddrPort("169.254.169.254:80"), "x")
	for range 500 {
		u.Handle(d)
	}
	if sent, held := len(guest.packets), u.Stats.Suppressed.Load(); held == 0 || sent < errorBurst || uint64(sent)+held != 500 {
		t.Errorf("got %d sent and %d held back, want at least %d sent of 500", sent, held, errorBurst)
	}
}

// The gateway is the first hop of a traceroute, and no hop to itself.
func TestUDPFirstHop(t *testing.T) {
	u, guest := startUDP(t)
	server := listen(t, "127.0.0.1:0")
	initiator := netip.AddrPortFrom(guest4, freePort(t))
	d := datagram(initiator, netip.MustParseAddrPort("198.51.100.1:33434"), "x")
	d.TTL = 1
	u.Handle(d)
	e := parseError(t, next(t, guest.packets))
	if e.source != gateway4 || e.typ != icmp4TimeExceeded || e.code != 0 {
		t.Errorf("got %v %d %d, want time exceeded from %v", e.source, e.typ, e.code, gateway4)
	}
	if string(e.quoted) != string(d.Header) {
		t.Errorf("quoted: got % x, want % x", e.quoted, d.Header)
	}
	d = datagram(initiator, netip.AddrPortFrom(gateway4, portOf(server)), "y")
	d.TTL = 1
	u.Handle(d)
	if got, _ := read(t, server); got != "y" {
		t.Errorf("to the gateway: got %q, want %q", got, "y")
	}
}

func TestUDPFull(t *testing.T) {
	u, _ := newTestUDP(t)
	defer u.close()
	u.cfg.Flows = flow.New(flow.Config{MaxUDP: 1})
	port := freePort(t)
	for i := range uint16(3) {
		u.Handle(datagram(netip.AddrPortFrom(guest4, port), netip.AddrPortFrom(gateway4, 1000+i), "x"))
	}
	if full, evicted := u.Stats.Full.Load(), u.Stats.Evicted.Load(); full != 0 || evicted != 2 {
		t.Errorf("never answered: got %d refused and %d evicted, want 0 and 2", full, evicted)
	}
	for f := range u.cfg.Flows.All() {
		f.ToInitiator.Store(1)
	}
	u.Handle(datagram(netip.AddrPortFrom(guest4, port), netip.AddrPortFrom(gateway4, 1003), "x"))
	if full, evicted := u.Stats.Full.Load(), u.Stats.Evicted.Load(); full != 1 || evicted != 2 {
		t.Errorf("answered: got %d refused and %d evicted, want 1 and 2", full, evicted)
	}
}

func TestUDPExpiry(t *testing.T) {
	u, _ := newTestUDP(t)
	defer u.close()
	long := netip.AddrPortFrom(guest4, freePort(t))
	short := netip.AddrPortFrom(guest4, freePort(t))
	sweep := func(ticks int) {
		for range ticks {
			u.sweep()
		}
	}
	u.Handle(datagram(long, netip.AddrPortFrom(gateway4, 4000), "x"))
	u.Handle(datagram(short, netip.AddrPortFrom(gateway4, dnsPort), "x"))
	sweep(10)
	wantMappings(t, &u.mapper, "after 10 s", 2)
	sweep(1)
	if u.mappingOf(short) != nil || u.mappingOf(long) == nil {
		t.Errorf("after 11 s: got %v and %v, want only %v", u.mappingOf(short), u.mappingOf(long), long)
	}
	sweep(100)
	u.Handle(datagram(long, netip.AddrPortFrom(gateway4, 4000), "refresh"))
	sweep(120)
	wantMappings(t, &u.mapper, "120 s after the last datagram", 1)
	sweep(1)
	wantMappings(t, &u.mapper, "after 121 s", 0)
	if _, peers := u.sizes(); peers+u.cfg.Flows.Len(flow.UDP) != 0 {
		t.Errorf("after 121 s: got %d peers and %d flows, want 0", peers, u.cfg.Flows.Len(flow.UDP))
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(long.Port())})
	if err != nil {
		t.Fatalf("port of the expired mapping: %v", err)
	}
	c.Close()
}

// A DNS flow ends soon after its last answer, but not before: resolvers ask for
// both families of addresses from one port.
func TestUDPAnswered(t *testing.T) {
	u, _ := newTestUDP(t)
	defer u.close()
	guest, server := netip.AddrPortFrom(guest4, freePort(t)), netip.AddrPortFrom(gateway4, dnsPort)
	for range 2 {
		u.Handle(datagram(guest, server, "question"))
	}
	mp := u.mappingOf(guest)
	answer := func() {
		loopback := socket.NewAddress(netip.MustParseAddrPort("127.0.0.1:53"))
		u.receive(mp, socket.Message{From: loopback, Payload: []byte("answer")})
	}
	answer()
	for range 10 {
		u.sweep()
	}
	wantMappings(t, &u.mapper, "one of two questions answered", 1)
	answer()
	u.sweep()
	wantMappings(t, &u.mapper, "1 s after the last answer", 1)
	u.sweep()
	wantMappings(t, &u.mapper, "2 s after the last answer", 0)
}

// RFC 4787 REQ-6: outbound traffic refreshes, and so does what comes back.
func TestUDPInboundRefreshes(t *testing.T) {
	u, guest := startUDP(t)
	server := listen(t, "127.0.0.1:0")
	u.Handle(datagram(netip.AddrPortFrom(guest4, freePort(t)), netip.AddrPortFrom(gateway4, portOf(server)), "x"))
	_, mapped := read(t, server)
	for range 3 {
		for range 100 {
			u.sweep()
		}
		write(t, server, mapped, "y")
		next(t, guest.datagrams)
	}
	if got := u.cfg.Flows.Len(flow.UDP); got != 1 {
		t.Errorf("flows after 300 s of answers: got %d, want 1", got)
	}
}

// Handle, the reader and the sweeper meet in all orders.
func TestUDPConcurrent(t *testing.T) {
	u, guest := startUDP(t)
	server := listen(t, "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), settle.Patience)
	defer cancel()
	go func() { // the guest takes whatever comes
		for ctx.Err() == nil {
			select {
			case <-guest.datagrams:
			case <-guest.packets:
			case <-ctx.Done():
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 500 {
				initiator := netip.AddrPortFrom(guest4, uint16(20000+(i*j)%50))
				u.Handle(datagram(initiator, netip.AddrPortFrom(gateway4, portOf(server)), "x"))
				if j%10 == 0 {
					for range 130 {
						u.sweep()
					}
				}
			}
		})
	}
	wg.Wait()
}

// Run gives everything back even in the middle of traffic; a call that comes
// later is harmless.
func TestUDPAfterRun(t *testing.T) {
	u, _ := newTestUDP(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- u.Run(ctx) }()
	before := settle.Descriptors()
	target := netip.AddrPortFrom(gateway4, 4000)
	for i := range uint16(100) {
		u.Handle(datagram(netip.AddrPortFrom(guest4, 20000+i), target, "x"))
	}
	if got := settle.Descriptors(); got != before+100 {
		t.Errorf("descriptors: got %d, want %d", got, before+100)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: got %v, want nil", err)
	}
	if got := settle.Descriptors(); got != before-2 { // the poller's
		t.Errorf("descriptors after the end: got %d, want %d", got, before-2)
	}
	u.Handle(datagram(netip.AddrPortFrom(guest4, 20000), target, "x"))
	if got := u.Stats.Dropped.Load(); got != 1 {
		t.Errorf("dropped after the end: got %d, want 1", got)
	}
	if got := u.cfg.Flows.Len(flow.UDP); got != 0 {
		t.Errorf("flows after the end: got %d, want 0", got)
	}
}

func TestUDPAllocations(t *testing.T) {
	u, _ := newTestUDP(t)
	defer u.close()
	server := listen(t, "127.0.0.1:0")
	d := datagram(netip.AddrPortFrom(guest4, freePort(t)), netip.AddrPortFrom(gateway4, portOf(server)), "x")
	d.TOS = 0x10
	if got := testing.AllocsPerRun(100, func() { u.Handle(d) }); got != 0 {
		t.Errorf("allocations per datagram: got %v, want 0", got)
	}
}

func TestNewUDPChecks(t *testing.T) {
	guest, rules, flows := newFakeGuest(), testRules(t), flow.New(flow.Config{})
	for _, cfg := range []Config{
		{Rules: rules, Flows: flows},
		{Guest: guest, Flows: flows},
		{Guest: guest, Rules: rules},
	} {
		if _, err := NewUDP(UDPConfig{Config: cfg}); err == nil {
			t.Errorf("%+v: got no error", cfg)
		}
	}
	u, err := NewUDP(UDPConfig{Config: Config{Guest: guest, Rules: rules, Flows: flows}, Idle: 1500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	if idle, _ := u.idle(netip.MustParseAddrPort("198.51.100.1:1000")); ticks(idle) != 2 {
		t.Errorf("%v in ticks: got %d, want 2", idle, ticks(idle))
	}
}

func BenchmarkUDPOut(b *testing.B) {
	u, _ := newTestUDP(b)
	defer u.close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		b.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		b.Fatal(err)
	}
	port := uint16(name.(*unix.SockaddrInet4).Port)
	d := datagram(netip.AddrPortFrom(guest4, 40000), netip.AddrPortFrom(gateway4, port), strings.Repeat("x", 1400))
	b.ReportAllocs()
	for b.Loop() {
		u.Handle(d)
	}
}
