package dhcp

import (
	"net"
	"net/netip"
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
	// Guest4 is the guest's IPv4 address with the length of its network;
	// Gateway4 and Resolver4 are where the guest finds router and DNS. A zero
	// Resolver4 leaves DNS out.
	Guest4              netip.Prefix
	Gateway4, Resolver4 netip.Addr

	// Guest6 is the guest's IPv6 address. Routers are not DHCP's business in
	// IPv6. A zero Resolver6 leaves DNS out.
	Guest6, Resolver6 netip.Addr

	// MTU is the guest interface's, in bytes of IP packet; 0 leaves it out.
	MTU int

	// Search is the DNS search list, well-formed names without final dots. See
	// SetSearch.
	Search []string

	// Hostname is the guest's host name; "" leaves it out.
	Hostname string

	// ServerMAC is the gateway's hardware address: what the server is known by
	// in DHCPv6.
	ServerMAC net.HardwareAddr

	// Lease is how long an address is good for; 0 means an hour.
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
	search atomic.Pointer[[]string] // what it points to is never changed

	malformed, ignored atomic.Uint64
}

// New returns a Server for config.
func New(config Config) *Server {
	if config.Lease <= 0 {
		config.Lease = defaultLease
	}
	s := &Server{
		config: config,
		duid:   &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: config.ServerMAC},
	}
	s.SetSearch(config.Search)
	s.config.Search = nil
	return s
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
	return &rfc1035label.Labels{Labels: list}
}

// unpanic is to be deferred by whoever gives a guest's bytes to the codec: a
// panic there becomes a malformed request.
func (s *Server) unpanic(ok *bool) {
	if recover() != nil {
		s.malformed.Add(1)
		*ok = false
	}
}
