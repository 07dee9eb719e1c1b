package dhcp

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

const (
	// maxAssociations bounds the identity associations of one kind that a reply
	// speaks of, and the addresses in one; clients have one each. It keeps the
	// reply in one packet.
	maxAssociations = 8

	// minRefresh is the least information refresh time, IRT_MINIMUM of RFC
	// 8415 section 7.6.
	minRefresh = 10 * time.Minute

	// preferenceMost ends the client's wait for other servers (RFC 8415
	// section 18.2.1).
	preferenceMost = 255
)

// Reply6 answers request, the payload of a datagram to UDP port 547 from src.
// It returns the payload of the answer, to be sent from port 547 of the
// gateway's link-local address to port 546 of src. If ok is false there is
// nothing to send.
func (s *Server) Reply6(request []byte, src netip.Addr) (reply []byte, ok bool) {
	defer s.unpanic(&ok)
	if !s.config.Guest6.IsValid() || !src.Is6() || src.IsUnspecified() || src.IsMulticast() {
		s.ignored.Add(1)
		return nil, false
	}
	m, err := parse6(request)
	if err != nil {
		s.malformed.Add(1)
		return nil, false
	}
	answer := s.answer6(m)
	if answer == nil {
		s.ignored.Add(1)
		return nil, false
	}
	return answer.ToBytes(), true
}

// answer6 returns the answer to m, or nil if there is none.
func (s *Server) answer6(m *dhcpv6.Message) *dhcpv6.Message {
	if !s.isForUs(m) {
		return nil
	}
	r := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	if client := m.GetOneOption(dhcpv6.OptionClientID); client != nil {
		r.AddOption(client)
	}
	r.AddOption(dhcpv6.OptServerID(s.duid))
	switch m.Type() {
	case dhcpv6.MessageTypeSolicit:
		s.solicit6(m, r)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		s.lease6(m, r)
	case dhcpv6.MessageTypeConfirm:
		if !s.confirm6(m, r) {
			return nil
		}
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		r.AddOption(status6(iana.StatusSuccess))
	case dhcpv6.MessageTypeInformationRequest:
		r.AddOption(dhcpv6.OptInformationRefreshTime(max(s.config.Lease, minRefresh)))
		s.describe6(r)
	}
	return r
}

// isForUs reports whether m has the identifiers that its type must and may
// have: RFC 8415 section 16.
func (s *Server) isForUs(m *dhcpv6.Message) bool {
	client, server := m.Options.ClientID(), m.Options.ServerID()
	if server != nil && !bytes.Equal(server.ToBytes(), s.duid.ToBytes()) {
		return false
	}
	switch m.Type() {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return client != nil && server == nil
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		return client != nil && server != nil
	case dhcpv6.MessageTypeInformationRequest:
		return m.Options.OneIANA() == nil && m.Options.OneIATA() == nil && m.Options.OneIAPD() == nil
	}
	return false
}

// solicit6 makes r the offer that m asks for, or with rapid commit the lease.
func (s *Server) solicit6(m, r *dhcpv6.Message) {
	if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
		dhcpv6.WithRapidCommit(r)
	} else {
		r.MessageType = dhcpv6.MessageTypeAdvertise
		dhcpv6.WithPreference(preferenceMost)(r)
	}
	s.lease6(m, r)
}

// lease6 answers every identity association of m, and tells about the network.
func (s *Server) lease6(m, r *dhcpv6.Message) {
	for i, ia := range limit(m.Options.IANA()) {
		if i == 0 {
			r.AddOption(s.address6(ia))
			continue
		}
		r.AddOption(&dhcpv6.OptIANA{IaId: ia.IaId, Options: refusal6(iana.StatusNoAddrsAvail)})
	}
	for _, ia := range limit(m.Options.IATA()) {
		r.AddOption(&dhcpv6.OptIATA{IaId: ia.IaId, Options: refusal6(iana.StatusNoAddrsAvail)})
	}
	for _, ia := range limit(m.Options.IAPD()) {
		r.AddOption(&dhcpv6.OptIAPD{
			IaId:    ia.IaId,
			Options: dhcpv6.PDOptions{Options: refusal6(iana.StatusNoPrefixAvail).Options},
		})
	}
	s.describe6(r)
}

// address6 returns ia with the guest's address, and with those addresses in
// it that the client should not have, at their end (RFC 8415 section 18.3.4).
func (s *Server) address6(ia *dhcpv6.OptIANA) *dhcpv6.OptIANA {
	lease := s.config.Lease
	out := &dhcpv6.OptIANA{IaId: ia.IaId, T1: lease / 2, T2: lease * 4 / 5} // RFC 8415 section 21.4
	out.Options.Add(&dhcpv6.OptIAAddress{
		IPv6Addr:          s.config.Guest6.AsSlice(),
		PreferredLifetime: lease,
		ValidLifetime:     lease,
	})
	for _, a := range limit(ia.Options.Addresses()) {
		if !s.isGuest6(a) {
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.IPv6Addr})
		}
	}
	return out
}

// confirm6 tells whether all addresses that m holds are good here. It returns
// false if there are none, which gets no answer (RFC 8415 section 18.3.3).
func (s *Server) confirm6(m, r *dhcpv6.Message) bool {
	found, code := false, iana.StatusSuccess
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			found = true
			if !s.isGuest6(a) {
				code = iana.StatusNotOnLink
			}
		}
	}
	r.AddOption(status6(code))
	return found
}

// describe6 adds the options that tell about the network.
func (s *Server) describe6(r *dhcpv6.Message) {
	if len(s.config.Resolvers6) > 0 {
		dhcpv6.WithDNS(toIPs(s.config.Resolvers6)...)(r)
	}
	if search := s.searchLabels(); search != nil {
		r.AddOption(dhcpv6.OptDomainSearchList(search))
	}
	if s.config.FQDN != "" {
		r.AddOption(s.fqdn6())
	}
}

func (s *Server) isGuest6(a *dhcpv6.OptIAAddress) bool {
	addr, _ := netip.AddrFromSlice(a.IPv6Addr)
	return addr == s.config.Guest6
}

func status6(code iana.StatusCode) *dhcpv6.OptStatusCode {
	return &dhcpv6.OptStatusCode{StatusCode: code}
}

// refusal6 returns the content of an identity association that gets nothing.
func refusal6(code iana.StatusCode) dhcpv6.IdentityOptions {
	return dhcpv6.IdentityOptions{Options: dhcpv6.Options{status6(code)}}
}

// limit returns at most maxAssociations of list.
func limit[T any](list []T) []T { return list[:min(len(list), maxAssociations)] }
