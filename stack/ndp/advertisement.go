package ndp

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	// hopLimit is what the guest shall put into its packets, the value that
	// RFC 4861 section 6.2.1 takes from the assigned numbers.
	hopLimit = 64

	// defaultLifetime is AdvDefaultLifetime with the usual interval, RFC 4861
	// section 6.2.1.
	defaultLifetime = 30 * time.Minute

	// maxLifetime is the longest router lifetime that there is room for.
	maxLifetime = 65535 * time.Second

	// maxResolvers bounds the name servers, of which resolvers use three.
	maxResolvers = 8

	// maxSearch bounds the search list, in bytes of its encoded form, so that
	// the advertisement fits into the 1280 bytes that IPv6 never fragments.
	maxSearch = 512

	// maxSearchOption bounds the part of it in one option. The codec counts the
	// bytes of an option in eight bits, although there may be 2040: 31 units
	// of 8 bytes, less 8 for what stands before the names.
	maxSearchOption = 30 * optionUnit

	optionUnit = 8 // bytes that an option's length counts
)

// A Config says what to advertise.
type Config struct {
	// Prefix is the guest's network.
	Prefix netip.Prefix

	// MTU is the link's, in bytes of IP packet; 0 leaves it out.
	MTU int

	// Autonomous lets the guest make up addresses of Prefix, which must have
	// 64 bits for that (RFC 4862 section 5.5.3).
	Autonomous bool

	// DHCP says that addresses and everything else are to be had by DHCPv6.
	DHCP bool

	// Resolvers are where the guest finds DNS, at most 8; none leaves them out.
	Resolvers []netip.Addr

	// Search is the DNS search list, well-formed names without final dots.
	// A name of more than 238 bytes, and what would make the list longer than
	// 512, is left out.
	Search []string

	// RouterMAC is the gateway's hardware address.
	RouterMAC net.HardwareAddr

	// Lifetime is how long everything is good for, in whole seconds, at most
	// 65535; 0 means half an hour.
	Lifetime time.Duration
}

// Advertisement returns the router advertisement for config: an ICMPv6
// message, from its type to its last option, with a checksum of zero that the
// sender fills in. It has to be sent from a link-local address with a hop
// limit of 255 (RFC 4861 section 4.2).
func Advertisement(config Config) ([]byte, error) {
	prefix := config.Prefix.Masked()
	if !prefix.IsValid() || !prefix.Addr().Is6() {
		return nil, fmt.Errorf("advertise %v: not an IPv6 network", config.Prefix)
	}
	lifetime := config.Lifetime
	if lifetime <= 0 {
		lifetime = defaultLifetime
	}
	lifetime = min(lifetime, maxLifetime)
	b, err := ndp.MarshalMessage(&ndp.RouterAdvertisement{
		CurrentHopLimit:      hopLimit,
		ManagedConfiguration: config.DHCP,
		OtherConfiguration:   config.DHCP,
		RouterLifetime:       lifetime,
		Options:              config.options(prefix, lifetime),
	})
	if err != nil {
		return nil, fmt.Errorf("advertise %v: %w", prefix, err)
	}
	return b, nil
}

// options returns the options of an advertisement.
func (c *Config) options(prefix netip.Prefix, lifetime time.Duration) []ndp.Option {
	options := []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: c.RouterMAC},
		&ndp.PrefixInformation{
			PrefixLength:      uint8(prefix.Bits()),
			Prefix:            prefix.Addr(),
			OnLink:            true,
			ValidLifetime:     lifetime,
			PreferredLifetime: lifetime,

			AutonomousAddressConfiguration: c.Autonomous,
		},
	}
	if c.MTU > 0 {
		options = append(options, ndp.NewMTU(uint32(c.MTU)))
	}
	if servers := c.Resolvers[:min(len(c.Resolvers), maxResolvers)]; len(servers) > 0 {
		options = append(options, &ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: servers})
	}
	return append(options, searchOptions(c.Search, lifetime)...)
}

// searchOptions returns the search list, in as many options as it takes (RFC
// 8106 section 5.3.1 adds them up).
func searchOptions(domains []string, lifetime time.Duration) (options []ndp.Option) {
	var last *ndp.DNSSearchList
	total, used := 0, 0 // bytes in all options; in the last one
	for _, d := range domains {
		size := len(d) + 2 // first length byte and root
		if size > maxSearchOption || total+size > maxSearch {
			continue
		}
		if last == nil || used+size > maxSearchOption {
			last = &ndp.DNSSearchList{Lifetime: lifetime}
			options = append(options, last)
			used = 0
		}
		last.DomainNames = append(last.DomainNames, d)
		total += size
		used += size
	}
	return options
}
