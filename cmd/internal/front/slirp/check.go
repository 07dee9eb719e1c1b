package slirp

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// check finds what is wrong although each option by itself parses, in
// slirp4netns's order: first what is answered with the usage, then addresses.
func (o *options) check(operands []string) error {
	checkOperands := o.checkNetns
	switch {
	case o.targetType != "netns" && o.targetType != "bess":
		return usage(`--target-type must be either "netns" or "bess"`)
	case o.macGiven != nil && !o.configure:
		return usage("--macaddr cannot be specified when --configure or -c is not specified")
	case o.targetType == "bess":
		checkOperands = o.checkBess
	}
	if err := checkOperands(operands); err != nil {
		return err
	}
	return o.checkAddresses()
}

// checkBess takes the operand of a bess target.
func (o *options) checkBess(operands []string) error {
	switch {
	case o.configure:
		return usage("--configure conflicts with --target-type=bess")
	case o.netnsType != "pid":
		return usage("--netns-type conflicts with --target-type=bess")
	case o.usernsPath != "":
		return usage("--userns-path conflicts with --target-type=bess")
	case len(operands) == 0:
		return usage("")
	case len(operands) > 1:
		return usage("too many arguments")
	}
	o.path = operands[0]
	return nil
}

// maxName is the longest name of an interface in bytes (IFNAMSIZ-1 of
// linux/if.h). slirp4netns cuts longer ones.
const maxName = 15

// checkNetns takes the operands of a namespace.
func (o *options) checkNetns(operands []string) error {
	if o.usernsPath != "" {
		if _, err := os.Stat(o.usernsPath); err != nil {
			return usage("userns path doesn't exist: " + o.usernsPath)
		}
	}
	if o.netnsType == "tapfd" {
		return o.checkTapFD(operands)
	}
	if len(operands) < 2 {
		return usage("") // the name of the device is not optional
	}
	o.extra = len(operands) > 2
	o.name = operands[1][:min(len(operands[1]), maxName)]
	if o.netnsType != "pid" {
		o.path = operands[0]
		if _, err := os.Stat(o.path); err != nil {
			return usage("existing path expected when --netns-type=path: " + cause(err))
		}
		return nil
	}
	pid, err := strconv.Atoi(operands[0])
	if err != nil || pid < 1 {
		return usage("PID must be a positive integer")
	}
	o.pid = min(pid, math.MaxInt32) // beyond pid_max, as nothing that large is
	return nil
}

// cause returns the system's words for err, without the path.
func cause(err error) string {
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		err = path.Err
	}
	return err.Error()
}

// checkTapFD takes the operand of a device that the caller has opened.
func (o *options) checkTapFD(operands []string) error {
	switch {
	case len(operands) == 0:
		return usage("")
	case o.configure:
		return usage("--configure conflicts with --netns-type=tapfd")
	}
	fd, err := strconv.Atoi(operands[0])
	if err != nil || fd < 0 {
		return usage("tapfd must be a non-negative integer")
	}
	o.tapFD, o.extra = fd, len(operands) > 1
	return nil
}

// checkAddresses parses the addresses that were given.
func (o *options) checkAddresses() (err error) {
	cidr := defaultNet4
	if o.cidrGiven != nil {
		cidr = *o.cidrGiven
	}
	if o.network, err = parseCIDR(cidr); err != nil {
		return err
	}
	if g := o.outboundGiven; g != nil {
		if o.outbound, err = outbound(*g, netip.Addr.Is4); err != nil {
			return fmt.Errorf("outbound-addr has to be valid ipv4 address or interface name: %q: %w", *g, err)
		}
	}
	if g := o.outbound6Given; g != nil {
		if o.outbound6, err = outbound(*g, is6); err != nil {
			return fmt.Errorf("outbound-addr6 has to be valid ipv6 address or interface name: %q: %w", *g, err)
		}
	}
	if g := o.macGiven; g != nil {
		if o.mac, err = parseMAC(*g); err != nil {
			return err
		}
	}
	return nil
}

// parseCIDR parses the network of --cidr.
func parseCIDR(s string) (netip.Prefix, error) {
	const least, most = 1, 25 // an offset of 100 needs seven bits
	address, length, _ := strings.Cut(s, "/")
	fields := strings.Split(address, ".")
	if len(fields) != net.IPv4len || !digits(append(fields, length)...) {
		return netip.Prefix{}, errors.New("invalid CIDR: " + s)
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, errors.New("invalid network address: " + address)
	}
	bits, err := strconv.Atoi(length)
	if err != nil || bits < least || bits > most {
		return netip.Prefix{}, fmt.Errorf("prefix length needs to be %d-%d", least, most)
	}
	network := netip.PrefixFrom(addr, bits)
	if network != network.Masked() {
		return netip.Prefix{}, fmt.Errorf("CIDR needs to be a network address like %v, not like %v", network.Masked(), network)
	}
	return network, nil
}

// digits reports whether all words are unsigned decimal numbers.
func digits(words ...string) bool {
	for _, w := range words {
		if w == "" || strings.Trim(w, "0123456789") != "" {
			return false
		}
	}
	return true
}

// parseMAC parses the address of --macaddress: six bytes in hexadecimal, of
// one digit or two with colons between them, of two without.
func parseMAC(s string) (net.HardwareAddr, error) {
	bad := fmt.Errorf("%q is an invalid MAC address.\n"+
		"macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':')", s)
	words := strings.Split(s, ":")
	if len(words) == 1 && len(s) == 12 {
		words = []string{s[:2], s[2:4], s[4:6], s[6:8], s[8:10], s[10:]}
	}
	var mac net.HardwareAddr
	for _, w := range words {
		b, err := strconv.ParseUint(w, 16, 8)
		if err != nil || len(w) > 2 {
			return nil, bad
		}
		mac = append(mac, byte(b))
	}
	const group = 1 // the first bit on the wire, IEEE 802 section 8.2
	if len(mac) != 6 || mac[0]&group != 0 || string(mac) == string(make([]byte, 6)) {
		return nil, bad
	}
	return mac, nil
}

// outbound returns the address that s is, or the first one of the interface
// that has s for its name.
func outbound(s string, is func(netip.Addr) bool) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if !is(addr) {
			return netip.Addr{}, errors.New("wrong address family")
		}
		return addr, nil
	}
	i, err := net.InterfaceByName(s)
	if err != nil {
		return netip.Addr{}, errors.New("no such interface")
	}
	addrs, err := i.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && is(p.Addr()) {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("no address of this family on the interface")
}

func is6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }
