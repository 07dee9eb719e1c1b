package stack

import (
	"context"
	"encoding/binary"
	"runtime"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"taproot/stack/link"
)

const (
	// settleTurns is how often the reader lets others run before it puts a SYN
	// aside whose connection is still there. On one processor three are enough:
	// for the holder of the endpoint's lock, for gVisor's processor, and for a
	// second pass of it.
	settleTurns = 4

	// settleLimit is how long a SYN is put aside. On a busy machine those whom
	// it waits for may be kept from running for some time slices; a guest that
	// has really forgotten its connection does not notice.
	settleLimit = 50 * time.Millisecond

	// maxLate is how many SYNs may be put aside; more are not.
	maxLate = 64
)

// A lateSYN was put aside at a time.
type lateSYN struct {
	*SYN
	since time.Time
}

// settle waits for the end of a connection that is about to end, when a SYN
// comes that uses its addresses and ports again: gVisor queues segments for a
// connection, and answers a SYN with RST that stands in that queue behind the
// RST or the last ACK by which the connection ends, without asking the
// forwarder. It returns true when it has put the SYN aside.
//
// A SYN that is the connection's own once more, because its answer took more than
// a second, must not wait: delivered behind the end of a short connection, it
// would open a second one.
func (s *Stack) settle(f *link.Frame) bool {
	protocol, id, ok := idOfSYN(f.Head)
	if !ok {
		return false
	}
	for range settleTurns {
		if !s.isConnected(protocol, id) {
			return false
		}
		runtime.Gosched()
	}
	syn := synOf(f)
	if syn == nil || s.isRepeated(id, syn.Sequence) {
		return false
	}
	select {
	case s.late <- lateSYN{syn, time.Now()}:
		return true
	default:
		return false
	}
}

// deliverLate gives the SYNs that were put aside to the stack, each when its
// connection has ended. Where it does live, it answers with an ACK (RFC 5961
// §4.1). deliverLate returns when ctx ends.
func (s *Stack) deliverLate(ctx context.Context) {
	for {
		var l lateSYN
		select {
		case l = <-s.late:
		case <-ctx.Done():
			return
		}
		protocol, id, ok := idOfSYN(l.frame)
		for ok && s.isConnected(protocol, id) && time.Since(l.since) < settleLimit {
			time.Sleep(time.Millisecond)
		}
		s.Deliver(l.SYN)
	}
}

// isConnected tells whether gVisor has a connection of that identity.
func (s *Stack) isConnected(protocol tcpip.NetworkProtocolNumber, id stack.TransportEndpointID) bool {
	return s.stack.FindTransportEndpoint(protocol, tcp.ProtocolNumber, id, nic) != nil
}

// isRepeated tells whether the guest has sent a SYN before. That can only be while
// the handshake lasts: the reader has not seen the ACK that is behind it.
func (s *Stack) isRepeated(id stack.TransportEndpointID, sequence uint32) bool {
	head := s.head(id) // ends with the ports and the sequence number
	return len(head) >= quoted && binary.BigEndian.Uint32(head[len(head)-4:]) == sequence
}

// idOfSYN returns the family and the identity, from our side, of the connection
// that a SYN asks for. IPv6 extension headers are not looked behind.
func idOfSYN(head []byte) (tcpip.NetworkProtocolNumber, stack.TransportEndpointID, bool) {
	protocol, at := tcpip.NetworkProtocolNumber(header.IPv6ProtocolNumber), atIP+header.IPv6MinimumSize
	if head[atIP]>>4 == 4 {
		protocol, at = header.IPv4ProtocolNumber, atIP+int(header.IPv4(head[atIP:]).HeaderLength())
	}
	if len(head) < at+header.TCPMinimumSize {
		return 0, stack.TransportEndpointID{}, false
	}
	segment := header.TCP(head[at:])
	if segment.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return 0, stack.TransportEndpointID{}, false
	}
	id := stack.TransportEndpointID{RemotePort: segment.SourcePort(), LocalPort: segment.DestinationPort()}
	if protocol == header.IPv4ProtocolNumber {
		ip := header.IPv4(head[atIP:])
		id.RemoteAddress, id.LocalAddress = ip.SourceAddress(), ip.DestinationAddress()
	} else {
		ip := header.IPv6(head[atIP:])
		id.RemoteAddress, id.LocalAddress = ip.SourceAddress(), ip.DestinationAddress()
	}
	return protocol, id, true
}
