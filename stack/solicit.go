package stack

import (
	"context"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// How often, and at what interval, the guest is asked for its hardware
// address: RFC 4861 §10, MAX_MULTICAST_SOLICIT and RETRANS_TIMER. ARP has no
// numbers of its own.
const (
	solicitTimes    = 3
	solicitInterval = time.Second
)

// meet waits until the guest's hardware address is known, and asks for it
// until then: a guest that serves only, over IPv4, may never have said a word.
// It returns EHOSTUNREACH if nobody has the address.
func (s *Stack) meet(ctx context.Context, guest netip.Addr) error {
	for range solicitTimes {
		select {
		case <-s.link.Met():
			return nil
		default:
		}
		s.solicit(guest)
		again := time.NewTimer(solicitInterval)
		select {
		case <-s.link.Met():
			again.Stop()
			return nil
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		case <-again.C:
		}
	}
	return syscall.EHOSTUNREACH
}

// solicit asks who has an address. What comes back is not looked at but for
// its source: each frame tells the guest's hardware address. Errors are those
// of the device, and counted by the link.
func (s *Stack) solicit(guest netip.Addr) {
	if guest.Is4() {
		_ = s.link.SendARP(s.arpProbe(guest))
		return
	}
	_ = s.SendICMP6(s.linkLocal, solicitedNode(guest), s.neighbourMessage(header.ICMPv6NeighborSolicit, 0, guest))
}

// arpProbe returns an ARP request without a sender (RFC 5227 §1.1), for there
// is no address that every guest would believe to be its neighbour's.
func (s *Stack) arpProbe(guest netip.Addr) []byte {
	b := header.ARP(make([]byte, header.ARPSize))
	b.SetIPv4OverEthernet()
	b.SetOp(header.ARPRequest)
	copy(b.HardwareAddressSender(), s.mac)
	copy(b.ProtocolAddressTarget(), guest.AsSlice())
	return b
}

// solicitedNode returns the multicast group of an address (RFC 4291 §2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	return fromAddress(header.SolicitedNodeAddr(toAddress(a)))
}
