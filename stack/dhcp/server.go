package dhcp

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

const (
	// defaultLease makes clients ask again every half hour, and so hear of a
	// new search list; the address itself never changes.
	defaultLease = time.Hour

	// forever is the longest lease: RFC 2131 section 3.3, RFC 8415 section 7.7.
	forever = (1<<32 - 1) * time.Second

	// maxResolvers bounds the name servers, of which resolvers use three.
	maxResolvers = 8

	// maxRequest is the largest request that is looked at, in bytes of UDP
	// payload. Real ones have some 300; a datagram can have 64 KiB.
	maxRequest = 1500

	// maxSearch bounds the search list, in bytes of its encoded form, so that
	// every reply fits into the 1280 bytes that IPv6 never fragments.
	maxSearch = 512
)

// A Config says what the guest is told. A family that the guest does not have
// is left zero, and its requests are not answered.
type Config struct {
	// Guest4 is the guest's IPv4 address with the length of its network, and
	// Gateway4 its router, whose address is the server's too.
	Guest4   netip.Prefix
	Gateway4 netip.Addr

	// Pool4 is the first of Pool4Size addresses of Guest4's network, at most
	// 256, which clients get instead of Guest4's, one each in the order in
	// which they ask. 0 means no pool.
	Pool4     netip.Addr
	Pool4Size int

	// Guest6 is the guest's IPv6 address. Routers are not DHCP's business in
	// IPv6.
	Guest6 netip.Addr

	// Resolvers4 and Resolvers6 are where the guest finds DNS, at most 8 of
	// each. None leaves DNS out.
	Resolvers4, Resolvers6 []netip.Addr

	// MTU is the guest interface's, in bytes of IP packet; 0 leaves it out.
	MTU int

	// Search is the DNS search list, well-formed names without final dots. See
	// SetSearch.
	Search []string

	// Hostname is the guest's host name, FQDN its full name, well-formed and
	// without the final dot; "" leaves them out.
	Hostname, FQDN string

	// ServerMAC is the gateway's hardware address: what the server is known by
	// in DHCPv6.
	ServerMAC net.HardwareAddr

	// Lease is how long an address is good for, at most 4294967295 s, which
	// means for ever; 0 means an hour.
	Lease time.Duration
}

// Stats count requests that got no answer.
type Stats struct {
	Malformed uint64 // could not be read
	Ignored   uint64 // were for somebody else, or need no answer
}

// A Server answers DHCP requests. It is safe for concurrent use, never blocks
// and has no goroutines.
type Server struct {
	config Config // Search unused, see search
	duid   dhcpv6.DUID
	pool   *pool                    // nil if there is only Guest4's address
	search atomic.Pointer[[]string] // what it points to is never changed

	malformed, ignored atomic.Uint64
}

// New returns a Server for config.
func New(config Config) *Server {
	if config.Lease <= 0 {
		config.Lease = defaultLease
	}
	config.Lease = min(config.Lease, forever)
	s := &Server{
		config: config,
		duid:   &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: config.ServerMAC},
		pool:   newPool(config.Pool4, config.Pool4Size),
	}
	s.SetSearch(config.Search)
	s.config.Search = nil
	s.config.Resolvers4 = resolvers(config.Resolvers4)
	s.config.Resolvers6 = resolvers(config.Resolvers6)
	return s
}

// resolvers returns a copy of as many addresses as may be told.
func resolvers(addrs []netip.Addr) []netip.Addr {
	return slices.Clone(addrs[:min(len(addrs), maxResolvers)])
}

// toIPs returns addresses as the codec wants them.
func toIPs(addrs []netip.Addr) []net.IP {
	list := make([]net.IP, len(addrs))
	for i, a := range addrs {
		list[i] = a.AsSlice()
	}
	return list
}

// SetSearch replaces the search list; clients hear of it when they renew.
// Names that would make it longer than 512 bytes are left out.
func (s *Server) SetSearch(domains []string) {
	var list []string
	size := 0
	for _, d := range domains {
		size += len(d) + 2 // first length byte and root
		if size > maxSearch {
			break
		}
		list = append(list, d)
	}
	s.search.Store(&list)
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{Malformed: s.malformed.Load(), Ignored: s.ignored.Load()}
}

// searchLabels returns the search list for the codec, or nil if it is empty.
func (s *Server) searchLabels() *rfc1035label.Labels {
	list := *s.search.Load()
	if len(list) == 0 {
		return nil
	}
	return labels(list...)
}

// unpanic is to be deferred by whoever gives a guest's bytes to the codec: a
// panic there becomes a malformed request.
func (s *Server) unpanic(ok *bool) {
	if recover() != nil {
		s.malformed.Add(1)
		*ok = false
	}
}
