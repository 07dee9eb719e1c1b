package plan

import (
	"crypto/rand"
	"errors"
	"net"
	"net/netip"

	"taproot/userns"
)

// DefaultMTU is what Ethernet has, in bytes of IP packet: the truth about most
// paths, and with offloads as fast as more.
const DefaultMTU = 1500

// A Plan is the guest's network with all choices made.
type Plan struct {
	Interface string           // name of the guest's device
	MTU       int              // bytes of IP packet; 0 leaves the kernel's
	MAC       net.HardwareAddr // the guest's; nil leaves the kernel's

	// GatewayMAC is the gateway's hardware address.
	GatewayMAC net.HardwareAddr

	// LinkLocal is the gateway's IPv6 link-local address; the zero value means
	// the one that RFC 4291 §2.5.1 makes of GatewayMAC.
	LinkLocal netip.Addr

	// Neighbours has the gateway answer for every address on the guest's link
	// but the guest's own, as in a network that is a copy of the host's.
	Neighbours bool

	// Follows says that the plan is to be made again when the host's network has
	// changed.
	Follows bool

	V4, V6 Family
}

// A Family is one address family of the guest's network. The zero value is a
// family that is off.
type Family struct {
	// Guest are the guest's own addresses with the length of their networks.
	// Published ports lead to the first.
	Guest []netip.Prefix

	// Advertised says that the guest's kernel forms its addresses and default
	// route from our router advertisements: they are not set.
	Advertised bool

	// Autonomous says that the guest may form further IPv6 addresses of the
	// first network by our router advertisements. They are among Sources.
	Autonomous bool

	// Sources are further addresses that the guest may send from.
	Sources []netip.Prefix

	// Routes are set on the guest's device.
	Routes []userns.Route

	// Gateway is who the guest's packets go to: the source of ICMP errors of
	// our own, and the guest's name for the host.
	Gateway netip.Addr

	// Foreign says that the gateway's address is also somebody else's, the
	// host's router, so that the stack does not answer there itself.
	Foreign bool

	// Resolver is where the guest finds DNS; invalid if nowhere.
	Resolver netip.Addr

	// Host is the host's own main address; invalid if that is not known.
	Host netip.Addr

	// Pool is the first of PoolSize addresses that DHCP gives away instead of
	// the guest's own; 0 means no pool.
	Pool     netip.Addr
	PoolSize int
}

// On tells whether the guest has this family.
func (f *Family) On() bool { return len(f.Guest) > 0 }

// First returns the guest's main address with the length of its network; the
// zero Prefix for a family that is off.
func (f *Family) First() netip.Prefix {
	if !f.On() {
		return netip.Prefix{}
	}
	return f.Guest[0]
}

// Families returns both families, IPv4 first.
func (p *Plan) Families() [2]*Family { return [2]*Family{&p.V4, &p.V6} }

// Setup returns what the stage makes of the plan in the guest's namespace.
func (p *Plan) Setup() userns.Setup {
	s := userns.Setup{Interface: p.Interface, MTU: p.MTU, MAC: p.MAC, AcceptRA: p.V6.Advertised}
	for _, f := range p.Families() {
		if f.Advertised {
			continue
		}
		s.Addresses = append(s.Addresses, f.Guest...)
		s.Routes = append(s.Routes, f.Routes...)
	}
	return s
}

// A Warn function gets what the user should know although there is a plan.
type Warn func(message, hint string)

func (w Warn) warn(message, hint string) {
	if w != nil {
		w(message, hint)
	}
}

// errNoFamily says that both families are off.
var errNoFamily = errors.New("both IPv4 and IPv6 are off")

// gatewayMAC is the gateway's hardware address where nobody asks for another:
// locally administered, and the same for every guest, which never meet.
func gatewayMAC() net.HardwareAddr { return net.HardwareAddr{0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee} }

// randomMAC returns a locally administered unicast address.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails, crypto/rand
	mac[0] = mac[0]&^1 | 2
	return mac
}

// defaultRoute returns the route of everything through gateway.
func defaultRoute(gateway netip.Addr) userns.Route {
	zero := netip.IPv4Unspecified()
	if gateway.Is6() {
		zero = netip.IPv6Unspecified()
	}
	return userns.Route{Destination: netip.PrefixFrom(zero, 0), Gateway: gateway}
}
