package dhcp

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// offer4 returns the address that a DISCOVER is answered with.
func (s *Server) offer4(m *dhcpv4.DHCPv4) (netip.Addr, bool) {
	if s.pool == nil {
		return s.config.Guest4.Addr(), true
	}
	return s.pool.offer(client4(m), addr4(m.RequestedIPAddress()), time.Now())
}

// take4 gives the address to who sent m, if it may have it.
func (s *Server) take4(m *dhcpv4.DHCPv4, addr netip.Addr) bool {
	if s.pool == nil {
		return addr == s.config.Guest4.Addr()
	}
	now := time.Now()
	return s.pool.take(client4(m), addr, now, now.Add(s.config.Lease))
}

// end4 hears that a client has no use for its address any more (RELEASE), or
// found that somebody else has it (DECLINE).
func (s *Server) end4(m *dhcpv4.DHCPv4) {
	if s.pool == nil {
		return
	}
	if m.MessageType() == dhcpv4.MessageTypeDecline {
		s.pool.give(client4(m), addr4(m.RequestedIPAddress()), declined, time.Now().Add(s.config.Lease))
		return
	}
	s.pool.give(client4(m), addr4(m.ClientIPAddr), "", time.Time{})
}

// client4 returns what a client is known by: the identifier that it says, or
// else its hardware address (RFC 2131 section 4.2).
func client4(m *dhcpv4.DHCPv4) string {
	if id := m.GetOneOption(dhcpv4.OptionClientIdentifier); len(id) > 0 {
		return "id " + string(id)
	}
	return fmt.Sprintf("hw %d %s", m.HWType, m.ClientHWAddr)
}
