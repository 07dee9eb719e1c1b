package front

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/stack/policy"
)

// A value is a pflag.Value over a function that parses. It keeps what was given,
// so that an option may be repeated where that means something.
type value[T any] struct {
	result *T
	given  []string
	preset string // what help and man page name as the default
	kind   string // what completion and messages call the argument
	parse  func(given []string) (T, error)
}

// Set implements pflag.Value.
func (v *value[T]) Set(s string) error {
	result, err := v.parse(append(v.given, s))
	if err != nil {
		return err
	}
	v.given, *v.result = append(v.given, s), result
	return nil
}

// String implements pflag.Value. Before Set it is the default.
func (v *value[T]) String() string {
	if v.given == nil {
		return v.preset
	}
	return strings.Join(v.given, ",")
}

// Type implements pflag.Value.
func (v *value[T]) Type() string { return v.kind }

// last makes a parse function for an option of which the last one counts.
func last[T any](parse func(string) (T, error)) func([]string) (T, error) {
	return func(given []string) (T, error) { return parse(given[len(given)-1]) }
}

// parseSwitch parses "on" and "off".
func parseSwitch(s string) (on bool, err error) {
	switch s {
	case "on", "off":
		return s == "on", nil
	}
	return false, errors.New("either on or off")
}

// The offset of the guest's address in its network, which must have room for it.
const guestOffset = 100

// parseNet4 parses the value of --net.
func parseNet4(s string) (plan.Network, error) {
	// RFC 1122 section 3.2.1.3: the last address is the broadcast address, so
	// offset 100 fits into 128 addresses and not into 64.
	return parseNet(s, family{name: "IPv4", bits: 32, longest: 25})
}

// parseNet6 parses the value of --net6.
func parseNet6(s string) (plan.Network, error) {
	return parseNet(s, family{name: "IPv6", bits: 128, longest: 121})
}

// A family is what parseNet must know of IPv4 or IPv6.
type family struct {
	name    string
	bits    int // length of an address
	longest int // longest prefix with room for guestOffset
}

// shortestPrefix keeps one typing error ("/2" for "/24") from swallowing a
// large part of the Internet.
const shortestPrefix = 8

func parseNet(s string, f family) (plan.Network, error) {
	if s == "auto" {
		return plan.Network{Auto: true}, nil
	}
	var none plan.Network
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().BitLen() != f.bits || p.Addr().Is4In6() {
		return none, fmt.Errorf("not auto and not an %s network (ADDRESS/LENGTH)", f.name)
	}
	if p.Bits() < shortestPrefix || p.Bits() > f.longest {
		return none, fmt.Errorf("prefix length not in %d..%d: the guest has offset %d in its network",
			shortestPrefix, f.longest, guestOffset)
	}
	if p != p.Masked() {
		return none, &misuse{
			err:    errors.New("bits behind the prefix are set"),
			remedy: "the network of that address is " + p.Masked().String(),
		}
	}
	if !usable(p.Addr()) {
		return none, errors.New("not a network for hosts")
	}
	return plan.Network{Prefix: p}, nil
}

// usable reports whether addresses like a can be given to a guest and its
// gateway: RFC 6890, everything that is not unicast, loopback or link-local.
func usable(a netip.Addr) bool {
	if a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 224) {
		return false
	}
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// Limits of --mtu, in bytes of IP packet.
const (
	minMTU4 = 576   // RFC 791 section 3.1: what every host must take
	minMTU6 = 1280  // RFC 8200 section 5
	maxMTU  = 65521 // with its Ethernet header 65535, the longest frame of a TAP
)

// parseMTU parses the value of --mtu. That IPv6 needs more is known only when
// all options are.
func parseMTU(s string) (int, error) {
	mtu, err := strconv.Atoi(s)
	if err != nil || mtu < minMTU4 || mtu > maxMTU {
		return 0, fmt.Errorf("not a number in %d..%d (%d.. with IPv6)", minMTU4, maxMTU, minMTU6)
	}
	return mtu, nil
}

// maxInterface is the longest name of an interface in bytes (IFNAMSIZ-1 of
// linux/if.h).
const maxInterface = 15

// parseInterface parses the value of --ifname by the rules of the kernel's
// dev_valid_name, and refuses what the namespace has already.
func parseInterface(s string) (string, error) {
	switch {
	case s == "" || len(s) > maxInterface:
		return "", fmt.Errorf("not 1 to %d bytes", maxInterface)
	case s == "." || s == "..", s == "lo", s == "all", s == "default":
		return "", errors.New("reserved name")
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("/:%", c) >= 0 {
			return "", fmt.Errorf("character %q in the name of an interface", c)
		}
	}
	return s, nil
}

// parseMAC parses the value of --mac.
func parseMAC(s string) (net.HardwareAddr, error) {
	const sizeEthernet = 6 // bytes; ParseMAC takes longer ones too
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != sizeEthernet {
		return nil, errors.New("not an Ethernet address (02:00:00:00:00:01)")
	}
	const group = 1 // the first bit on the wire, IEEE 802 section 8.2
	if mac[0]&group != 0 || string(mac) == string(make([]byte, sizeEthernet)) {
		return nil, errors.New("not the address of one interface")
	}
	return mac, nil
}

// parseDNS parses all values of --dns together.
func parseDNS(given []string) (engine.DNS, error) {
	var dns engine.DNS
	for _, s := range given {
		switch s {
		case "auto", "off":
			if len(given) > 1 {
				return dns, fmt.Errorf("together with --dns=%s", given[0])
			}
			dns.Off = s == "off"
			continue
		}
		server, err := parseServer(s)
		if err != nil {
			return dns, err
		}
		dns.Servers = append(dns.Servers, server)
	}
	return dns, nil
}

// parseServer parses an address with or without a port.
func parseServer(s string) (netip.AddrPort, error) {
	const domain = 53 // RFC 1035 section 4.2
	server, err := netip.ParseAddrPort(s)
	if err != nil {
		addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
		if err != nil {
			return server, errors.New("not auto, off or an address (192.0.2.1, 192.0.2.1:53, [2001:db8::1]:53)")
		}
		server = netip.AddrPortFrom(addr, domain)
	}
	if a := server.Addr(); server.Port() == 0 || a.IsUnspecified() || a.IsMulticast() {
		return server, errors.New("nothing answers there")
	}
	return server, nil
}

// parsePorts parses all values of --host-loopback or --allow-host together.
func parsePorts(given []string) (policy.Ports, error) {
	text := strings.Join(given, ",")
	if text == "none" {
		return policy.Ports{}, nil
	}
	return policy.ParsePorts(text)
}
