package pasta

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"taproot/cmd/internal/getopt"
	"taproot/internal/engine"
)

// options are a command line as parsed, each option still by itself.
type options struct {
	debug, quiet, foreground bool
	logFile                  string
	logSize                  int64
	runAs                    *identity
	pidFile, capture         string
	control                  string // path of the control socket
	stats                    time.Duration

	mtu                  int
	mtuGiven             bool
	addresses            perFamily
	bits                 [2]int // of the network of addresses, by family; 0 is unknown
	netmask              int    // 0 is unknown
	mac, guestMAC        net.HardwareAddr
	gateways             perFamily
	template, ifname     string
	outbound             perFamily
	outbound4, outbound6 string
	only4, only6         bool

	dns                  []netip.Addr
	dnsOff               bool
	dnsForward, dnsHost  perFamily
	search               []string
	searchOff            bool
	dhcpDNS, dhcpSearch  bool
	hostname, fqdn       string
	loopbacks            perFamily // what means the host's loopback
	loopbackOff          string    // the option by which nothing means it, "" for none
	guestAddrs           perFamily // what means the host's own address
	noTCP, noUDP, noICMP bool
	noDHCP, noDHCPv6     bool
	noRA                 bool

	userns, netns          string
	netnsOnly, noQuit      bool
	configure              bool
	noRoutes, noAddresses  bool
	toLoopback, spliceOnly bool
	noSplice               bool
	noFollow               bool
	shortcut               engine.Shortcut
	freebind               bool

	ports [4][]portSpec // in the order of portOptions

	// refused is about the first option that we know and lack. It counts when
	// nothing is wrong otherwise, so that a caller may probe for an option
	// with --version behind it.
	refused error

	operands []string
}

// Indices of perFamily and of options.bits.
const (
	ipv4 = iota
	ipv6
)

// A perFamily holds at most one address of each family.
type perFamily [2]netip.Addr

// set takes an address, or refuses a second one of its family.
func (p *perFamily) set(a netip.Addr) bool {
	i := familyOf(a)
	if p[i].IsValid() {
		return false
	}
	p[i] = a
	return true
}

func (p *perFamily) any() bool { return p[ipv4].IsValid() || p[ipv6].IsValid() }

// list returns the addresses that there are.
func (p *perFamily) list() []netip.Addr {
	var list []netip.Addr
	for _, a := range p {
		if a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// A portOption is one of the four options for ports.
type portOption struct{ short, long string }

// Indices of options.ports.
const (
	tcpIn = iota
	udpIn
	tcpOut
	udpOut
)

// portOptions are the options for ports, by those indices.
var portOptions = [4]portOption{{"t", "tcp-ports"}, {"u", "udp-ports"}, {"T", "tcp-ns"}, {"U", "udp-ns"}}

// What to do instead, once an option was met that says so. What follows is not
// looked at, as getopt's users do.
var (
	errHelp    = errors.New("help wanted")
	errVersion = errors.New("version wanted")
)

// parse parses the arguments behind the program's name. Nothing is opened but
// the files in which --runas looks up names.
func parse(args []string) (*options, error) {
	o := &options{logSize: defaultLogSize, mtu: defaultMTU}
	var err error
	if o.operands, err = o.set().Parse(args, getopt.StopAtOperand); err != nil {
		return nil, err
	}
	return o, o.check()
}

const (
	defaultMTU     = 65520   // what the original gives its guests
	defaultLogSize = 1 << 20 // bytes
)

// set returns the options in the order in which help shows them.
func (o *options) set() *getopt.Set {
	s := getopt.New()
	o.addGeneral(s)
	o.addAddresses(s)
	o.addNames(s)
	o.addHost(s)
	o.addNamespace(s)
	for i, p := range portOptions {
		s.Value(p.long, p.short, func(text string) error {
			spec, err := parsePorts("-"+p.short, text)
			o.ports[i] = append(o.ports[i], spec)
			return err
		})
	}
	return s
}

// flag adds an option that switches something on; to may be nil for one that is
// known and has no effect.
func flag(s *getopt.Set, name, short string, to *bool) {
	s.Flag(name, short, func() error {
		if to != nil {
			*to = true
		}
		return nil
	})
}

// value adds an option of which the last argument counts.
func value[T any](s *getopt.Set, name, short string, to *T, parse func(string) (T, error)) {
	s.Value(name, short, func(text string) (err error) {
		*to, err = parse(text)
		return err
	})
}

// family adds an option that may be given once for IPv4 and once for IPv6. what
// names the address in messages.
func family(s *getopt.Set, name, short, what string, to *perFamily, parse func(string) (netip.Addr, error)) {
	s.Value(name, short, func(text string) error {
		a, err := parse(text)
		if err != nil {
			return invalid(what, text)
		}
		if !to.set(a) {
			return invalid(what, text+": the second one of its family")
		}
		return nil
	})
}

// text takes an argument as it is, but not an empty one.
func text(what string) func(string) (string, error) {
	return func(s string) (string, error) {
		if s == "" {
			return "", invalid(what, "empty")
		}
		return s, nil
	}
}

func (o *options) addGeneral(s *getopt.Set) {
	flag(s, "debug", "d", &o.debug)
	flag(s, "trace", "", &o.debug)
	value(s, "stats", "", &o.stats, parseDelay)
	flag(s, "quiet", "q", &o.quiet)
	flag(s, "foreground", "f", &o.foreground)
	flag(s, "stderr", "e", nil) // messages always go there until we are in the background
	value(s, "log-file", "l", &o.logFile, text("log file"))
	value(s, "log-size", "", &o.logSize, parseLogSize)
	s.Value("runas", "", func(text string) error {
		id, err := parseIdentity(text, readText)
		o.runAs = &id
		return err
	})
	value(s, "conf-path", "c", &o.control, text("control socket"))
	value(s, "pcap", "p", &o.capture, text("pcap file"))
	value(s, "pid", "P", &o.pidFile, text("pid file"))
	s.Value("fd", "F", o.refuse("-F", "there is no connected socket to serve in this mode"))
	flag(s, "chroot-fallback", "", nil) // there is no chroot that could fail
	s.Flag("help", "h", func() error { return errHelp })
	s.Flag("version", "", func() error { return errVersion })
}

// refuse returns what notes that an option is not supported: to ignore it would
// give less than was asked for.
func (o *options) refuse(option, why string) func(string) error {
	return func(string) error {
		if o.refused == nil {
			o.refused = &unsupportedError{option, why}
		}
		return nil
	}
}

// An unsupportedError is about an option of the original's that we lack.
type unsupportedError struct{ option, why string }

// Error implements error.
func (e *unsupportedError) Error() string { return e.option + " is not supported: " + e.why }

func (o *options) addAddresses(s *getopt.Set) {
	s.Value("mtu", "m", func(text string) (err error) {
		o.mtu, err = parseMTU(text)
		o.mtuGiven = true
		return err
	})
	s.Value("address", "a", func(text string) error {
		a, bits, err := parseGuest(text)
		if err != nil {
			return invalid("address", text)
		}
		if !o.addresses.set(a) {
			return invalid("address", text+": the second one of its family")
		}
		o.bits[familyOf(a)] = bits
		return nil
	})
	value(s, "netmask", "n", &o.netmask, parseNetmask)
	value(s, "mac-addr", "M", &o.mac, parseMAC)
	value(s, "ns-mac-addr", "", &o.guestMAC, parseMAC)
	family(s, "gateway", "g", "gateway address", &o.gateways, parseUnicast)
	value(s, "interface", "i", &o.template, parseInterface)
	family(s, "outbound", "o", "outbound address", &o.outbound, parseHost)
	value(s, "outbound-if4", "", &o.outbound4, parseInterface)
	value(s, "outbound-if6", "", &o.outbound6, parseInterface)
	flag(s, "ipv4-only", "4", &o.only4)
	flag(s, "ipv6-only", "6", &o.only6)
	value(s, "ns-ifname", "I", &o.ifname, parseInterface)
	flag(s, "no-copy-routes", "", &o.noRoutes)
	flag(s, "no-copy-addrs", "", &o.noAddresses)
}

func (o *options) addNames(s *getopt.Set) {
	s.Value("dns", "D", o.addDNS)
	family(s, "dns-forward", "", "DNS forwarding address", &o.dnsForward, parseUnicast)
	family(s, "dns-host", "", "host nameserver", &o.dnsHost, parseHost)
	s.Value("search", "S", o.addSearch)
	flag(s, "dhcp-dns", "", &o.dhcpDNS)
	s.Flag("no-dhcp-dns", "", func() error { o.dhcpDNS = false; return nil })
	flag(s, "dhcp-search", "", &o.dhcpSearch)
	s.Flag("no-dhcp-search", "", func() error { o.dhcpSearch = false; return nil })
	value(s, "hostname", "H", &o.hostname, func(text string) (string, error) { return parseHostname(text, maxName) })
	value(s, "fqdn", "", &o.fqdn, func(text string) (string, error) { return parseHostname(text, maxDomain) })
}

// addDNS takes one address that guests are told, or "none".
func (o *options) addDNS(text string) error {
	off := text == wordNone || text == ""
	if o.dnsOff || off && o.dns != nil {
		return invalid("DNS address", text+": none excludes all others")
	}
	if off {
		o.dnsOff = true
		return nil
	}
	a, err := parseHost(text)
	if err != nil {
		return invalid("DNS address", text)
	}
	o.dns = append(o.dns, a)
	return nil
}

// addSearch takes search domains that guests are told, or "none".
func (o *options) addSearch(text string) error {
	off := text == wordNone || text == ""
	if o.searchOff || off && o.search != nil {
		return invalid("DNS search list", text+": none excludes all others")
	}
	if off {
		o.searchOff = true
		return nil
	}
	list, err := parseSearch(text)
	o.search = append(o.search, list...)
	return err
}

func (o *options) addHost(s *getopt.Set) {
	s.Value("map-host-loopback", "", func(text string) error {
		off := false
		err := mapped(text, &o.loopbacks, &off, "address for the host's loopback")
		if off {
			o.loopbackOff = "--map-host-loopback none"
		}
		return err
	})
	s.Flag("no-map-gw", "", func() error { o.loopbackOff = "--no-map-gw"; return nil })
	s.Value("map-guest-addr", "", func(text string) error {
		return mapped(text, &o.guestAddrs, new(bool), "address for the host")
	})
	flag(s, "no-tcp", "", &o.noTCP)
	flag(s, "no-udp", "", &o.noUDP)
	s.Flag("no-icmp", "", func() error { o.noICMP, o.noRA = true, true; return nil })
	flag(s, "no-dhcp", "", &o.noDHCP)
	flag(s, "no-ndp", "", &o.noRA)
	flag(s, "no-dhcpv6", "", &o.noDHCPv6)
	flag(s, "no-ra", "", &o.noRA)
	flag(s, "freebind", "", &o.freebind)
	flag(s, "host-lo-to-ns-lo", "", &o.toLoopback)
	flag(s, "no-splice", "", &o.noSplice)
	flag(s, "splice-only", "", &o.spliceOnly)
	flag(s, "no-follow", "", &o.noFollow)
	value(s, "shortcut", "", &o.shortcut, parseShortcut)
}

// mapped takes an address of the guest's view that means one of the host, or
// "none".
func mapped(text string, to *perFamily, off *bool, what string) error {
	if text == wordNone {
		*to, *off = perFamily{}, true
		return nil
	}
	a, err := parseUnicast(text)
	if err != nil {
		return invalid(what, text)
	}
	to[familyOf(a)] = a
	return nil
}

func (o *options) addNamespace(s *getopt.Set) {
	value(s, "userns", "", &o.userns, text("user namespace"))
	value(s, "netns", "", &o.netns, text("network namespace"))
	flag(s, "netns-only", "", &o.netnsOnly)
	flag(s, "no-netns-quit", "", &o.noQuit)
	flag(s, "config-net", "", &o.configure)
}
