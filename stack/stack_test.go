package stack

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"

	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

var (
	gateway4 = netip.MustParseAddr("10.0.2.2")
	gateway6 = netip.MustParseAddr("fd00::2")
	guest4   = netip.MustParseAddr("10.0.2.100")
	guest6   = netip.MustParseAddr("fd00::64")
	server4  = netip.MustParseAddr("198.51.100.1")
	server6  = netip.MustParseAddr("2001:db8::1")

	gatewayMAC = net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee}
	guestMAC   = net.HardwareAddr{0x02, 0, 0, 0, 0, 1}
)

// A wire is a gateway and a guest with their devices joined. The guest is a
// stack as well, which sends from its own addresses only by our choice.
type wire struct {
	gateway, guest *Stack
}

// newWire makes both and runs them until the test ends. prepare sets handlers.
func newWire(t *testing.T, features tap.Features, mtu int, prepare func(gateway, guest *Stack)) wire {
	t.Helper()
	a, b, err := taptest.Pair(features)
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(a netip.Addr) bool { return a == guest4 || a == guest6 || a.IsLinkLocalUnicast() }
	w := wire{
		gateway: newStack(t, Config{Device: a, MTU: mtu, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}, Source: allowed}),
		guest:   newStack(t, Config{Device: b, MTU: mtu, MAC: guestMAC, Addresses: []netip.Addr{guest4, guest6}}),
	}
	if prepare != nil {
		prepare(w.gateway, w.guest)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, s := range []*Stack{w.gateway, w.guest} {
		wg.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

func newStack(t *testing.T, cfg Config) *Stack {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dial connects from the guest.
func (w wire) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	protocol, from := ipv4.ProtocolNumber, guest4
	if to.Addr().Is6() {
		protocol, from = ipv6.ProtocolNumber, guest6
	}
	return gonet.DialTCPWithBind(ctx, w.guest.stack, tcpip.FullAddress{NIC: nic, Addr: toAddress(from)},
		tcpip.FullAddress{NIC: nic, Addr: toAddress(to.Addr()), Port: to.Port()}, tcpip.NetworkProtocolNumber(protocol))
}

// offloads are the two ways that a device is opened.
var offloads = map[string]tap.Features{
	"plain":    {},
	"offloads": {Header: true, Checksum: true, TSO: true, USO: true},
}

func eachWay(t *testing.T, f func(t *testing.T, features tap.Features, server netip.Addr)) {
	for name, features := range offloads {
		for _, server := range []netip.Addr{server4, server6} {
			t.Run(name+"/"+server.String(), func(t *testing.T) { f(t, features, server) })
		}
	}
}

func TestTCPEcho(t *testing.T) {
	eachWay(t, func(t *testing.T, features tap.Features, server netip.Addr) {
		var wg sync.WaitGroup
		defer wg.Wait()
		w := newWire(t, features, 1500, func(gateway, _ *Stack) {
			gateway.HandleTCP(func(r *Request) {
				wg.Add(1)
				defer wg.Done()
				c, err := r.Accept()
				if err != nil {
					t.Errorf("accept: %v", err)
					return
				}
				conn := c.NetConn()
				defer conn.Close()
				if _, err := io.Copy(conn, conn); err != nil {
					t.Errorf("echo: %v", err)
				}
			})
		})
		ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
		defer cancel()
		conn, err := w.dial(ctx, netip.AddrPortFrom(server, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		wg.Go(func() {
			if _, err := conn.Write(sent); err != nil {
				t.Errorf("write: %v", err)
			}
			conn.(*gonet.TCPConn).CloseWrite()
		})
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("echo: got %d bytes and error %v, want the %d sent", len(got), err, len(sent))
		}
	})
}

func TestTCPRefusedAndForgotten(t *testing.T) {
	w := newWire(t, offloads["offloads"], 1500, func(gateway, _ *Stack) {
		gateway.HandleTCP(func(r *Request) {
			if len(r.Header) != header.IPv4MinimumSize+quoted {
				t.Errorf("header: got %d bytes, want %d", len(r.Header), header.IPv4MinimumSize+quoted)
			}
			r.Refuse()
		})
	})
	ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
	defer cancel()
	_, err := w.dial(ctx, netip.AddrPortFrom(server4, 80))
	if op, ok := err.(*net.OpError); !ok || op.Err.Error() != "connection was refused" {
		t.Errorf("dial: got %v, want refused", err)
	}
	w.gateway.mu.Lock()
	defer w.gateway.mu.Unlock()
	if len(w.gateway.heads) != 0 {
		t.Errorf("heads of requests: got %d, want 0", len(w.gateway.heads))
	}
}

// receiver gets one datagram.
type received struct {
	from    netip.AddrPort
	payload []byte
	segment int
}

func TestUDPBothWays(t *testing.T) {
	for _, size := range []int{0, 1, 1472, 1473, 60000, 65507} {
		eachWay(t, func(t *testing.T, features tap.Features, server netip.Addr) {
			atGateway, atGuest := make(chan received, 1), make(chan received, 1)
			w := newWire(t, features, 1500, func(gateway, guest *Stack) {
				gateway.HandleUDP(func(d Datagram) { atGateway <- received{d.Source, bytes.Clone(d.Payload), d.Segment} })
				guest.HandleUDP(func(d Datagram) { atGuest <- received{d.Source, bytes.Clone(d.Payload), d.Segment} })
			})
			payload := bytes.Repeat([]byte{0xa5}, size)
			guest, target := netip.AddrPortFrom(guest4, 4000), netip.AddrPortFrom(server, 53)
			if server.Is6() {
				guest = netip.AddrPortFrom(guest6, 4000)
			}
			check := func(ch chan received, from netip.AddrPort) {
				t.Helper()
				select {
				case got := <-ch:
					if got.from != from || !bytes.Equal(got.payload, payload) || got.segment != 0 {
						t.Errorf("got %d bytes from %v, want %d from %v", len(got.payload), got.from, size, from)
					}
				case <-time.After(settle.Patience):
					t.Errorf("no datagram from %v", from)
				}
			}
			if err := w.guest.SendUDP(guest, target, payload, 0); err != nil {
				t.Fatal(err)
			}
			check(atGateway, guest)
			if err := w.gateway.SendUDP(target, guest, payload, 0); err != nil {
				t.Fatal(err)
			}
			check(atGuest, target)
		})
	}
}

func TestUDPSuperframe(t *testing.T) {
	got := make(chan received, 1)
	w := newWire(t, offloads["offloads"], 1500, func(gateway, _ *Stack) {
		gateway.HandleUDP(func(d Datagram) { got <- received{d.Source, bytes.Clone(d.Payload), d.Segment} })
	})
	payload := bytes.Repeat([]byte("x"), 10*1200+17)
	if err := w.guest.SendUDP(netip.AddrPortFrom(guest4, 1), netip.AddrPortFrom(server4, 443), payload, 1200); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.segment != 1200 || !bytes.Equal(r.payload, payload) {
		t.Errorf("got %d bytes in segments of %d, want %d of 1200", len(r.payload), r.segment, len(payload))
	}
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	got := make(chan received, 8)
	w := newWire(t, offloads["offloads"], 1500, func(gateway, _ *Stack) {
		gateway.HandleUDP(func(d Datagram) { got <- received{from: d.Source} })
	})
	for _, source := range []string{"8.8.8.8:1", "10.0.2.2:1", "198.51.100.1:1", "10.0.2.100:1"} {
		if err := w.guest.SendUDP(netip.MustParseAddrPort(source), netip.AddrPortFrom(server4, 7), []byte("x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if r := <-got; r.from.Addr() != guest4 {
		t.Errorf("source: got %v, want %v only", r.from, guest4)
	}
	if n := w.gateway.Link().Spoofed.Load(); n != 3 {
		t.Errorf("spoofed: got %d, want 3", n)
	}
}

func TestSendUDPRefuses(t *testing.T) {
	w := newWire(t, offloads["plain"], 1500, nil)
	if err := w.gateway.SendUDP(netip.AddrPortFrom(server4, 1), netip.AddrPortFrom(guest6, 1), nil, 0); err != errFamilies {
		t.Errorf("two families: got %v, want %v", err, errFamilies)
	}
	if err := w.gateway.SendUDP(netip.AddrPortFrom(server4, 1), netip.AddrPortFrom(guest4, 1), make([]byte, 65508), 0); err != errTooLong {
		t.Errorf("65508 bytes: got %v, want %v", err, errTooLong)
	}
	if err := w.gateway.SendPacket([]byte{1}); err != errPacket {
		t.Errorf("no packet: got %v, want %v", err, errPacket)
	}
}

func TestToError(t *testing.T) {
	for _, tt := range []struct {
		err  tcpip.Error
		want error
	}{
		{nil, nil},
		{&tcpip.ErrWouldBlock{}, syscall.EAGAIN},
		{&tcpip.ErrConnectionReset{}, syscall.ECONNRESET},
		{&tcpip.ErrTimeout{}, syscall.ETIMEDOUT},
	} {
		if got := toError(tt.err); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want)
		}
	}
}

// A guest may use a port again as soon as the connection before is closed,
// although the gateway closed it first.
func TestPortIsUsedAgainAtOnce(t *testing.T) {
	w := newWire(t, offloads["offloads"], 1500, func(gateway, _ *Stack) {
		gateway.HandleTCP(func(r *Request) {
			if c, err := r.Accept(); err == nil {
				c.Close()
			}
		})
	})
	ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
	defer cancel()
	from := tcpip.FullAddress{NIC: nic, Addr: toAddress(guest4), Port: 4000}
	to := tcpip.FullAddress{NIC: nic, Addr: toAddress(server4), Port: 80}
	const rounds = 20
	for range rounds {
		conn, err := gonet.DialTCPWithBind(ctx, w.guest.stack, from, to, ipv4.ProtocolNumber)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: got %v, want EOF", err)
		}
		conn.Close()
		await(t, "the end of the guest's connection", w.closed(80))
	}
	// Each SYN but the first, if they were dropped. A machine that stands still
	// for a while is good for one or two segments.
	if n := w.guest.stack.Stats().TCP.Retransmits.Value(); n >= rounds/2 {
		t.Errorf("segments sent again: got %d, want next to none", n)
	}
}

// closed is closed when the guest has no connection to port any more, and what
// it had is free again.
func (w wire) closed(port uint16) <-chan struct{} {
	return until(func() bool {
		for _, ep := range w.guest.stack.RegisteredEndpoints() {
			if e, ok := ep.(tcpip.Endpoint); ok {
				if a, err := e.GetRemoteAddress(); err == nil && a.Port == port {
					return false
				}
			}
		}
		return len(w.guest.stack.CleanupEndpoints()) == 0 // which still have their ports
	})
}

// until returns a channel that is closed when condition holds.
func until(condition func() bool) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !condition() {
			runtime.Gosched()
		}
	}()
	return done
}
