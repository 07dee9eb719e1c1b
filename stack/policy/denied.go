package policy

import (
	"fmt"
	"net/netip"
)

// A Proto is what a flow is carried by.
type Proto uint8

// The protocols that rules tell apart. ICMP means the echo of ICMP and ICMPv6.
const (
	TCP Proto = iota + 1
	UDP
	ICMP
)

// String returns the protocol's name in lower case.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	}
	return fmt.Sprintf("proto(%d)", uint8(p))
}

// A Denied is the error of a flow that a rule forbids. Callers find it with
// errors.As and answer the guest "administratively prohibited".
type Denied struct {
	// Rule names the rule that forbids the flow; the package text lists them.
	// The names are stable: they are seen in logs and counters.
	Rule string
	// Proto is what the flow would have been carried by.
	Proto Proto
	// Dst is the destination as the guest wrote it; port 0 for ICMP.
	Dst netip.AddrPort
}

// Error implements error.
func (d *Denied) Error() string {
	return fmt.Sprintf("%s %s: denied by rule %s", d.Proto, d.Dst, d.Rule)
}

// Names of the rules.
const (
	ruleInvalid        = "invalid" // no address at all
	ruleHostLoopback   = "host-loopback"
	ruleResolver       = "resolver"
	ruleGuest          = "guest"
	ruleUnspecified    = "unspecified"
	ruleLoopback       = "loopback"
	ruleMulticast      = "multicast"
	ruleBroadcast      = "broadcast"
	ruleReserved       = "reserved"
	ruleIPv4Compatible = "ipv4-compatible"
	ruleHost           = "host"
	ruleLinkLocal      = "link-local"
)
