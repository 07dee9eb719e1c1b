package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

// A guest may use a port again in the same instant in which it resets the
// connection that had it: the SYN is right behind the RST.
func TestPortIsUsedAgainAfterReset(t *testing.T) {
	w := newWire(t, offloads["offloads"], 1500, func(gateway, _ *Stack) {
		gateway.HandleTCP(func(r *Request) {
			if c, err := r.Accept(); err == nil {
				defer c.Abort()
				news := make(chan struct{}, 1)
				c.Notify(func() {
					select {
					case news <- struct{}{}:
					default:
					}
				})
				for c.Err() == nil {
					<-news
				}
			}
		})
	})
	ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
	defer cancel()
	from := tcpip.FullAddress{NIC: nic, Addr: toAddress(guest4), Port: 4000}
	to := tcpip.FullAddress{NIC: nic, Addr: toAddress(server4), Port: 80}
	for i := range 50 {
		if _, err := gonet.DialTCPWithBind(ctx, w.guest.stack, from, to, ipv4.ProtocolNumber); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		for _, ep := range w.guest.stack.RegisteredEndpoints() {
			ep.(tcpip.Endpoint).Abort()
		}
	}
	if n := w.guest.stack.Stats().TCP.Retransmits.Value(); n != 0 {
		t.Errorf("SYNs sent again: got %d, want 0", n)
	}
}

// A rawGuest writes segments of TCP and reads those of the gateway, on a device
// of its own.
type rawGuest struct {
	t      *testing.T
	device *tap.Device
	got    chan header.TCP
}

// newRawGuest returns a guest, and its gateway, which counts and accepts all
// connections, until the test ends.
func newRawGuest(t *testing.T, requests *atomic.Int32) (*Stack, rawGuest) {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t, Config{Device: a, MTU: 1500, MAC: gatewayMAC, Addresses: []netip.Addr{gateway4, gateway6}})
	s.HandleTCP(func(r *Request) {
		requests.Add(1)
		_, _ = r.Accept()
	})
	g := rawGuest{t, b, make(chan header.TCP, 64)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	wg.Go(func() {
		frame := make([]byte, tap.MaxFrame)
		_ = b.NewReader(frame).Run(func(n int) {
			if n >= 54 && frame[23] == uint8(header.TCPProtocolNumber) {
				g.got <- header.TCP(bytes.Clone(frame[34:n]))
			}
		})
	})
	t.Cleanup(func() {
		cancel()
		b.Close()
		wg.Wait()
	})
	return s, g
}

// send sends a segment without data to port 80 of server4.
func (g rawGuest) send(port uint16, flags header.TCPFlags, sequence, ack uint32) {
	g.t.Helper()
	g.sendFields(&header.TCPFields{
		SrcPort: port, DstPort: 80, SeqNum: sequence, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 0xffff,
	})
}

func (g rawGuest) sendFields(fields *header.TCPFields) {
	g.t.Helper()
	b := make([]byte, 54)
	copy(b, gatewayMAC)
	copy(b[6:], guestMAC)
	binary.BigEndian.PutUint16(b[atEtherType:], uint16(header.IPv4ProtocolNumber))
	(&Stack{}).putIP(b[atIP:], guest4, server4, uint8(header.TCPProtocolNumber), header.TCPMinimumSize)
	tcp := header.TCP(b[34:])
	tcp.Encode(fields)
	tcp.SetChecksum(^checksum.Checksum(tcp, pseudoSum(guest4, server4, uint8(header.TCPProtocolNumber), header.TCPMinimumSize)))
	w := g.device.NewWriter()
	w.Add(b)
	if err := w.Flush(); err != nil {
		g.t.Fatal(err)
	}
}

// next returns the next segment to a port with flags.
func (g rawGuest) next(port uint16, flags header.TCPFlags) header.TCP {
	g.t.Helper()
	for {
		select {
		case tcp := <-g.got:
			if tcp.DestinationPort() == port && tcp.Flags() == flags {
				return tcp
			}
		case <-time.After(settle.Patience):
			g.t.Fatalf("no segment to port %d with flags %v", port, flags)
		}
	}
}

// A SYN that a slow gateway gets twice asks for one connection, even if that is
// over before the second one is looked at.
func TestRepeatedSYNIsNoRequest(t *testing.T) {
	const synAck = header.TCPFlagSyn | header.TCPFlagAck
	var requests atomic.Int32
	s, g := newRawGuest(t, &requests)
	// A live connection: a SYN with its ports is looked at later, and answered
	// with an ACK. When that comes, the SYNs before have been looked at.
	g.send(4001, header.TCPFlagSyn, 100, 0)
	ack := g.next(4001, synAck).SequenceNumber() + 1
	g.send(4001, header.TCPFlagAck, 101, ack)
	settle.Until(t, "the live connection is there", func() bool { return !s.isAnswered(4001) })

	g.send(4000, header.TCPFlagSyn, 200, 0)
	ack = g.next(4000, synAck).SequenceNumber() + 1
	g.send(4000, header.TCPFlagSyn, 200, 0)
	g.send(4000, header.TCPFlagAck, 201, ack)
	g.send(4000, header.TCPFlagRst, 201, 0)
	g.send(4001, header.TCPFlagSyn, 500, 0)
	g.next(4001, header.TCPFlagAck)
	settle.Until(t, "no request is left", func() bool { return !s.isAnswered(4000) })
	if n := requests.Load(); n != 2 {
		t.Errorf("got %d requests, want 2", n)
	}
}

// A SYN that is no request leaves nothing behind.
func TestMalformedSYN(t *testing.T) {
	var requests atomic.Int32
	s, g := newRawGuest(t, &requests)
	for port := range uint16(100) {
		g.sendFields(&header.TCPFields{SrcPort: 1000 + port, DstPort: 80, DataOffset: 4, Flags: header.TCPFlagSyn})
	}
	g.send(4000, header.TCPFlagSyn, 200, 0)
	ack := g.next(4000, header.TCPFlagSyn|header.TCPFlagAck).SequenceNumber() + 1
	g.send(4000, header.TCPFlagAck, 201, ack)
	settle.Until(t, "the connection is there", func() bool { return !s.isAnswered(4000) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.heads); n != 0 {
		t.Errorf("got the headers of %d SYNs, want none", n)
	}
}

// isAnswered tells whether a request from a port of guest4's is being answered.
func (s *Stack) isAnswered(port uint16) bool {
	return s.head(stack.TransportEndpointID{
		RemoteAddress: toAddress(guest4), RemotePort: port, LocalAddress: toAddress(server4), LocalPort: 80,
	}) != nil
}
