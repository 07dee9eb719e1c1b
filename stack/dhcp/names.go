package dhcp

import (
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

// Flags of a client's fully qualified domain name (RFC 4702 section 2.1, RFC
// 4704 section 4.1).
const (
	fqdn4Wire     = 1 << 2 // E: the name is written as in DNS
	fqdn4NoUpdate = 1 << 3 // N: the server does not tell DNS of it
	fqdn6NoUpdate = 1 << 2 // N

	// fqdn4Code is the value of the two fields that RFC 4702 section 2.2 wants
	// nobody to use any more.
	fqdn4Code = 255
)

// fqdn4 returns the option of the guest's full name, in the form in which m
// has its own: DNS's, unless the client is an old one (RFC 4702 section 3.1).
func (s *Server) fqdn4(m *dhcpv4.DHCPv4) dhcpv4.Option {
	flags, name := byte(fqdn4Wire|fqdn4NoUpdate), labels(s.config.FQDN).ToBytes()
	if asked := m.GetOneOption(dhcpv4.OptionFQDN); len(asked) > 0 && asked[0]&fqdn4Wire == 0 {
		flags, name = fqdn4NoUpdate, []byte(s.config.FQDN)
	}
	return dhcpv4.OptGeneric(dhcpv4.OptionFQDN, append([]byte{flags, fqdn4Code, fqdn4Code}, name...))
}

// fqdn6 is fqdn4 for DHCPv6, which has one form only.
func (s *Server) fqdn6() dhcpv6.Option {
	return &dhcpv6.OptFQDN{Flags: fqdn6NoUpdate, DomainName: labels(s.config.FQDN)}
}

func labels(names ...string) *rfc1035label.Labels { return &rfc1035label.Labels{Labels: names} }
