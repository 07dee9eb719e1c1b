package pasta

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"taproot/internal/engine"
)

// An invalidError says which argument makes no sense, in the original's words.
type invalidError struct{ what, value string }

// Error implements error.
func (e *invalidError) Error() string { return "Invalid " + e.what + ": " + e.value }

func invalid(what, value string) error { return &invalidError{what, value} }

// maxInterface is the longest name of an interface in bytes (IFNAMSIZ-1 of
// linux/if.h).
const maxInterface = 15

// parseInterface checks the name of an interface by the rules of the kernel's
// dev_valid_name.
func parseInterface(s string) (string, error) {
	valid := s != "" && len(s) <= maxInterface && s != "." && s != ".."
	for _, c := range []byte(s) {
		valid = valid && c > ' ' && c < 0x7f && c != '/' && c != ':' && c != '%'
	}
	if !valid {
		return "", invalid("interface name", s)
	}
	return s, nil
}

// parseMAC parses the hardware address of one Ethernet interface.
func parseMAC(s string) (net.HardwareAddr, error) {
	const sizeEthernet = 6 // bytes; ParseMAC takes longer ones too
	const group = 1        // the first bit on the wire, IEEE 802 section 8.2
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != sizeEthernet || mac[0]&group != 0 || string(mac) == string(make([]byte, sizeEthernet)) {
		return nil, invalid("MAC address", s)
	}
	return mac, nil
}

// maxMTU is the longest packet behind the Ethernet header of the longest frame
// of a TAP. The original takes 65535; what is longer than we can is shortened,
// which is what callers mean by it.
const (
	maxMTU      = 65521
	maxMTUGiven = 65535
	minMTU      = 68   // RFC 791 section 3.2
	minMTU6     = 1280 // RFC 8200 section 5
)

// parseMTU parses the MTU in bytes; 0 means it is not set.
func parseMTU(s string) (int, error) {
	mtu, err := strconv.ParseUint(s, 10, 32)
	if err != nil || mtu > maxMTUGiven || mtu != 0 && mtu < minMTU {
		return 0, invalid("MTU", fmt.Sprintf("%s: not 0 or %d to %d", s, minMTU, maxMTUGiven))
	}
	return min(int(mtu), maxMTU), nil
}

// parseNetmask parses an IPv4 netmask, in dots or as a number of bits.
func parseNetmask(s string) (int, error) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n >= 1 && n <= 32 {
		return int(n), nil
	}
	mask, err := netip.ParseAddr(s)
	if err == nil && mask.Is4() {
		b := mask.As4()
		v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		if ones := bits.LeadingZeros32(^v); ones > 0 && v<<ones == 0 {
			return ones, nil
		}
	}
	return 0, invalid("netmask", s)
}

// parseUnicast parses an address that one host can have, other than loopback.
func parseUnicast(s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	if err != nil || a.IsUnspecified() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}, errNoAddress
	}
	return a, nil
}

// parseHost parses an address that one host can have, also loopback.
func parseHost(s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}, errNoAddress
	}
	return a, nil
}

// parseGuest parses the guest's address, with or without the length of its
// network; without, bits is 0.
func parseGuest(s string) (a netip.Addr, bits int, err error) {
	address, length, hasLength := strings.Cut(s, "/")
	if a, err = parseUnicast(address); err != nil {
		return a, 0, err
	}
	if hasLength {
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil || n == 0 || int(n) > a.BitLen() {
			return a, 0, errNoAddress
		}
		bits = int(n)
	}
	return a, bits, nil
}

// maxName is the longest host name in bytes (HOST_NAME_MAX, gethostname(2)).
const maxName = 64

// parseHostname checks a host name, with or without a domain: letters, digits
// and hyphens (RFC 1123 section 2.1), and underscores, which people use.
func parseHostname(s string, longest int) (string, error) {
	valid := s != "" && len(s) <= longest
	for label := range strings.SplitSeq(s, ".") {
		valid = valid && label != "" && len(label) <= 63 && label[0] != '-'
		for _, c := range []byte(label) {
			valid = valid && (c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z')
		}
	}
	if !valid {
		return "", invalid("host name", s)
	}
	return s, nil
}

// maxDomain is the longest domain name as text (RFC 1035 section 2.3.4).
const maxDomain = 253

// parseSearch parses a list of search domains, with spaces between them.
func parseSearch(s string) ([]string, error) {
	var list []string
	for domain := range strings.FieldsSeq(s) {
		if _, err := parseHostname(strings.TrimSuffix(domain, "."), maxDomain); err != nil {
			return nil, invalid("DNS search domain", domain)
		}
		list = append(list, domain)
	}
	return list, nil
}

// An identity is a user and a group.
type identity struct{ uid, gid int }

// parseIdentity parses the argument of --runas. files returns the text of
// passwd(5) or group(5), where names are looked up: a static program cannot ask
// the C library.
func parseIdentity(s string, files func(path string) string) (identity, error) {
	user, group, hasGroup := strings.Cut(s, ":")
	id := identity{-1, -1}
	const passwdFields, groupFields = 7, 4
	if f := entry(files("/etc/passwd"), user, passwdFields); f != nil {
		id.uid, id.gid = number(f[2]), number(f[3])
	} else if id.uid = number(user); id.uid >= 0 {
		id.gid = id.uid
	}
	if hasGroup {
		id.gid = number(group)
		if f := entry(files("/etc/group"), group, groupFields); f != nil {
			id.gid = number(f[2])
		}
	}
	if id.uid < 0 || id.gid < 0 {
		return identity{}, invalid("--runas option", s+": not UID, UID:GID or names of /etc/passwd and /etc/group")
	}
	return id, nil
}

// entry returns the fields of the line for name in the text of passwd(5) or
// group(5), nil if there is none.
func entry(text, name string, fields int) []string {
	for line := range strings.Lines(text) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(f) == fields && f[0] == name {
			return f
		}
	}
	return nil
}

// number returns a user or group id, -1 if s is none.
func number(s string) int {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// parseShortcut reads the argument of an option that pasta does not have.
func parseShortcut(s string) (engine.Shortcut, error) {
	way, err := engine.ParseShortcut(s)
	if err != nil {
		return 0, invalid("shortcut", s)
	}
	return way, nil
}
