package slirp

import (
	"errors"
	"net"
	"net/netip"
	"strconv"

	"taproot/cmd/internal/getopt"
	"taproot/internal/engine"
)

// options are the command line. Values that slirp4netns looks at only when all
// options are known are kept as they were given until check.
type options struct {
	configure       bool
	exitFD, readyFD int // -1: none
	mtu             int // bytes of IP packet
	ipv6            bool
	api             string
	disableLoopback bool
	disableDNS      bool
	sandbox         bool
	seccomp         bool
	shortcut        engine.Shortcut
	netnsType       string
	usernsPath      string
	targetType      string

	cidrGiven, macGiven           *string
	outboundGiven, outbound6Given *string

	// What check finds.
	pid                 int
	path                string // of the namespace, or of bess's socket
	tapFD               int    // -1: none
	name                string // of the TAP device
	network             netip.Prefix
	mac                 net.HardwareAddr
	outbound, outbound6 netip.Addr

	// extra tells that there are more operands than have a meaning.
	extra bool
}

// Defaults and limits of slirp4netns.
const (
	defaultMTU  = 1500
	maxMTU      = 65521
	defaultNet4 = "10.0.2.0/24"
)

// What an option asks for instead of a network.
var (
	errHelp    = errors.New("help")
	errVersion = errors.New("version")
)

// A usageError is answered with the usage on standard output.
type usageError struct {
	text string // "" if the usage says it all
}

// Error returns the words of slirp4netns.
func (e *usageError) Error() string { return e.text }

func usage(text string) error { return &usageError{text} }

// parse returns the options in args, which do not include the program's name.
// warn gets what slirp4netns says while it parses.
func parse(args []string, warn func(string)) (*options, error) {
	o := &options{exitFD: -1, readyFD: -1, tapFD: -1, mtu: defaultMTU, netnsType: "pid", targetType: "netns"}
	operands, err := o.register(warn).Parse(args, getopt.Permute)
	if err != nil {
		return nil, err
	}
	return o, o.check(operands)
}

// register returns the options in the order of slirp4netns's help.
func (o *options) register(warn func(string)) *getopt.Set {
	s := getopt.New()
	s.Flag("configure", "c", set(&o.configure))
	s.Value("exit-fd", "e", number(&o.exitFD, 0, int(^uint(0)>>1), "exit-fd must be a non-negative integer"))
	s.Value("ready-fd", "r", number(&o.readyFD, 0, int(^uint(0)>>1), "ready-fd must be a non-negative integer"))
	s.Value("mtu", "m", number(&o.mtu, 1, maxMTU, "MTU must be a positive integer (< "+strconv.Itoa(maxMTU+1)+")"))
	s.Flag("enable-ipv6", "6", set(&o.ipv6))
	s.Value("api-socket", "a", keep(&o.api))
	s.Value("cidr", "", keepPointer(&o.cidrGiven))
	s.Flag("disable-host-loopback", "", set(&o.disableLoopback))
	s.Value("netns-type", "", keep(&o.netnsType))
	s.Value("userns-path", "", keep(&o.usernsPath))
	s.Flag("enable-sandbox", "", set(&o.sandbox))
	s.Flag("enable-seccomp", "", set(&o.seccomp))
	s.Value("outbound-addr", "", keepPointer(&o.outboundGiven))
	s.Value("outbound-addr6", "", keepPointer(&o.outbound6Given))
	s.Flag("disable-dns", "", set(&o.disableDNS))
	s.Value("macaddress", "", keepPointer(&o.macGiven))
	s.Value("target-type", "", keep(&o.targetType))
	s.Value("shortcut", "", o.setShortcut)
	s.Flag("help", "h", func() error { return errHelp })
	s.Flag("version", "v", func() error { return errVersion })
	s.Flag("no-host-loopback", "", deprecated(&o.disableLoopback, warn, "no-host-loopback", "disable-host-loopback"))
	s.Flag("create-sandbox", "", deprecated(&o.sandbox, warn, "create-sandbox", "enable-sandbox"))
	return s
}

// setShortcut keeps the argument of an option that slirp4netns does not have.
func (o *options) setShortcut(argument string) (err error) {
	if o.shortcut, err = engine.ParseShortcut(argument); err != nil {
		return usage("--shortcut must be auto, on or off")
	}
	return nil
}

func set(b *bool) func() error {
	return func() error {
		*b = true
		return nil
	}
}

func keep(s *string) func(string) error {
	return func(argument string) error {
		*s = argument
		return nil
	}
}

func keepPointer(p **string) func(string) error {
	return func(argument string) error {
		*p = &argument
		return nil
	}
}

// number keeps an integer, and refuses what is not in least..most with text.
func number(n *int, least, most int, text string) func(string) error {
	return func(argument string) error {
		i, err := strconv.Atoi(argument)
		if err != nil || i < least || i > most {
			return usage(text)
		}
		*n = i
		return nil
	}
}

// deprecated is an old name of an option.
func deprecated(b *bool, warn func(string), old, today string) func() error {
	return func() error {
		warn("--" + old + " is deprecated, please use --" + today + " instead.")
		*b = true
		return nil
	}
}
