package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	// clientPort is where DHCPv4 clients listen.
	clientPort = 68

	// minMessage is what every client takes, in bytes of IP packet (RFC 2131
	// section 2), and headers those of IP and UDP in it.
	minMessage = 576
	headers    = 28
)

// Reply4 answers request, the payload of a datagram to UDP port 67. It
// returns the payload of the answer and where to send it, from port 67 of the
// gateway: the client's address, or 255.255.255.255. If ok is false there is
// nothing to send.
func (s *Server) Reply4(request []byte) (reply []byte, dst netip.AddrPort, ok bool) {
	defer s.unpanic(&ok)
	if !s.config.Guest4.IsValid() || !s.config.Gateway4.IsValid() {
		s.ignored.Add(1)
		return nil, netip.AddrPort{}, false
	}
	m, err := parse4(request)
	if err != nil {
		s.malformed.Add(1)
		return nil, netip.AddrPort{}, false
	}
	answer, err := s.answer4(m)
	if err != nil || answer == nil {
		s.ignored.Add(1)
		return nil, netip.AddrPort{}, false
	}
	return answer.ToBytes(), s.destination4(m, answer), true
}

// parse4 reads a message that a client may send.
func parse4(b []byte) (*dhcpv4.DHCPv4, error) {
	if len(b) > maxRequest {
		return nil, fmt.Errorf("parse dhcp request: %d bytes are too many", len(b))
	}
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, fmt.Errorf("parse dhcp request: %w", err)
	}
	if m.OpCode != dhcpv4.OpcodeBootRequest {
		return nil, fmt.Errorf("parse dhcp request: opcode %v", m.OpCode)
	}
	return m, nil
}

// answer4 returns the answer to m, or nil if there is none.
func (s *Server) answer4(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if relay := addr4(m.GatewayIPAddr); relay.IsValid() {
		return nil, nil // there is no relay in a guest's network
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if addr, ok := s.offer4(m); ok {
			return s.lease4(m, dhcpv4.MessageTypeOffer, addr)
		}
	case dhcpv4.MessageTypeRequest:
		return s.request4(m)
	case dhcpv4.MessageTypeInform:
		if client := addr4(m.ClientIPAddr); client.IsValid() && !s.config.Guest4.Masked().Contains(client) {
			return nil, nil // not from here
		}
		return s.build4(m, dhcpv4.MessageTypeAck, s.describe4)
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		s.end4(m)
	}
	return nil, nil
}

// request4 answers a REQUEST, whose meaning depends on the client's state: RFC
// 2131 section 4.3.2.
func (s *Server) request4(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	server := addr4(m.ServerIdentifier())
	if server.IsValid() && server != s.config.Gateway4 {
		return nil, nil // it takes another server's offer
	}
	wanted := addr4(m.RequestedIPAddress()) // selecting, or after a reboot
	if !wanted.IsValid() {
		wanted = addr4(m.ClientIPAddr) // renewing or rebinding
	}
	switch {
	case !wanted.IsValid():
		return nil, nil
	case !s.take4(m, wanted):
		return s.build4(m, dhcpv4.MessageTypeNak, func(r *dhcpv4.DHCPv4) {
			r.UpdateOption(dhcpv4.OptMessage("address is not to be had"))
		})
	}
	return s.lease4(m, dhcpv4.MessageTypeAck, wanted)
}

// lease4 offers or confirms an address.
func (s *Server) lease4(m *dhcpv4.DHCPv4, t dhcpv4.MessageType, addr netip.Addr) (*dhcpv4.DHCPv4, error) {
	return s.build4(m, t, func(r *dhcpv4.DHCPv4) {
		r.YourIPAddr = addr.AsSlice()
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(s.config.Lease))
		s.describe4(r)
	})
}

// build4 returns a reply to m with what every reply has, and what fill adds.
func (s *Server) build4(m *dhcpv4.DHCPv4, t dhcpv4.MessageType, fill func(*dhcpv4.DHCPv4)) (*dhcpv4.DHCPv4, error) {
	r, err := dhcpv4.NewReplyFromRequest(m)
	if err != nil {
		return nil, fmt.Errorf("build dhcp reply: %w", err)
	}
	r.UpdateOption(dhcpv4.OptMessageType(t))
	r.UpdateOption(dhcpv4.OptServerIdentifier(s.config.Gateway4.AsSlice()))
	if t == dhcpv4.MessageTypeAck {
		r.ClientIPAddr = m.ClientIPAddr
	}
	fill(r)
	s.name4(m, r)
	return r, nil
}

// describe4 adds the options that tell about the network.
func (s *Server) describe4(r *dhcpv4.DHCPv4) {
	bits := s.config.Guest4.Bits()
	r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(bits, 32)))
	if bits <= 30 { // RFC 3021: smaller networks have no broadcast address
		r.UpdateOption(dhcpv4.OptBroadcastAddress(broadcast(s.config.Guest4)))
	}
	s.route4(r)
	if len(s.config.Resolvers4) > 0 {
		r.UpdateOption(dhcpv4.OptDNS(toIPs(s.config.Resolvers4)...))
	}
	if mtu := s.config.MTU; mtu > 0 {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(mtu))))
	}
}

// route4 adds the default route. To a router outside of the guest's network, as
// many a cloud has it, there must be a route first, which only the classless
// option can say (RFC 3442); who knows that one ignores the router.
func (s *Server) route4(r *dhcpv4.DHCPv4) {
	gateway := net.IP(s.config.Gateway4.AsSlice())
	r.UpdateOption(dhcpv4.OptRouter(gateway))
	if s.config.Guest4.Masked().Contains(s.config.Gateway4) {
		return
	}
	r.UpdateOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: &net.IPNet{IP: gateway, Mask: net.CIDRMask(32, 32)}, Router: net.IPv4zero.To4()},
		&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: gateway},
	))
}

// name4 adds the options that hold names to r, those that the sender of m has
// room for, the most useful first. A refusal has none.
func (s *Server) name4(m, r *dhcpv4.DHCPv4) {
	if r.MessageType() == dhcpv4.MessageTypeNak {
		return
	}
	var options []dhcpv4.Option
	if search := s.searchLabels(); search != nil {
		options = append(options, dhcpv4.OptDomainSearch(search), dhcpv4.OptDomainName(search.Labels[0]))
	}
	if s.config.Hostname != "" {
		options = append(options, dhcpv4.OptHostName(s.config.Hostname))
	}
	if s.config.FQDN != "" {
		options = append(options, s.fqdn4(m))
	}
	for _, o := range options {
		r.UpdateOption(o)
		if len(r.ToBytes()) > sizeLimit(m) {
			r.DeleteOption(o.Code)
		}
	}
}

// sizeLimit returns how large a reply to m may be, in bytes of UDP payload.
func sizeLimit(m *dhcpv4.DHCPv4) int {
	size, err := m.MaxMessageSize()
	if err != nil || size < minMessage {
		size = minMessage
	}
	return min(int(size), maxRequest) - headers
}

// destination4 returns where the answer to m goes: RFC 2131 section 4.1.
func (s *Server) destination4(m, answer *dhcpv4.DHCPv4) netip.AddrPort {
	client := addr4(m.ClientIPAddr)
	if answer.MessageType() == dhcpv4.MessageTypeNak || !client.IsValid() {
		client = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return netip.AddrPortFrom(client, clientPort)
}

// addr4 returns ip, or the zero Addr if ip is none or 0.0.0.0.
func addr4(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// broadcast returns the last address of p's network.
func broadcast(p netip.Prefix) net.IP {
	ip := net.IP(p.Addr().AsSlice())
	mask := net.CIDRMask(p.Bits(), 32)
	for i := range ip {
		ip[i] |= ^mask[i]
	}
	return ip
}
