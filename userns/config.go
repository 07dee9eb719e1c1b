package userns

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
)

// StageName is argv[0] of the processes that this package starts from the
// running program's own binary. A main that finds it there calls Stage and
// exits with its result.
const StageName = "taproot-stage"

// An Identity says which user the command is inside the guest.
type Identity int

const (
	// IdentityRoot maps the caller to root inside; no other id exists.
	IdentityRoot Identity = iota

	// IdentityKeep keeps the caller's uid and gid inside; no other id exists,
	// and the command has no capabilities in its namespaces.
	IdentityKeep

	// IdentityAuto maps the caller to root inside, and the caller's subordinate
	// ids (subuid(5), subgid(5)) to 1 and up, by newuidmap and newgidmap.
	IdentityAuto
)

// String returns the identity's name: root, keep or auto.
func (i Identity) String() string {
	switch i {
	case IdentityRoot:
		return "root"
	case IdentityKeep:
		return "keep"
	case IdentityAuto:
		return "auto"
	}
	return "unknown"
}

// A Config names the command and the namespaces that it gets. The command
// inherits standard input, output and error, and every descriptor that the
// supervisor itself was started with.
type Config struct {
	// Command is the program, looked up in PATH as a shell does, and its
	// arguments. It must not be empty.
	Command []string

	// Dir is the command's working directory; "" means the supervisor's.
	Dir string

	// Env is the command's environment; nil means the supervisor's.
	Env []string

	// Identity says which user the command is.
	Identity Identity

	// PID, IPC and UTS ask for these namespaces too. With PID the guest gets
	// its own /proc and a process 1 of ours.
	PID, IPC, UTS bool

	// Hostname is the host name in the guest's UTS namespace; "" leaves the
	// host's. It needs UTS.
	Hostname string

	// Log gets each step at debug level and what could not be done, but is not
	// essential, at warning level; nil means nothing is logged.
	Log *slog.Logger
}

// A Setup is what is made inside the guest's namespaces.
type Setup struct {
	// Interface is the name of the device; "" means that there is no device, and
	// only the loopback is brought up.
	Interface string

	// Device makes the device. It is not used without an Interface.
	Device Device

	// Down makes the device and brings the loopback up. Nothing else is
	// configured.
	Down bool

	// Bare only makes the device: neither it nor the loopback is brought up, and
	// nothing is configured.
	Bare bool

	// MTU is the device's MTU in bytes of IP packet, without the Ethernet
	// header; 0 leaves it as it is.
	MTU int

	// MAC is the device's hardware address; nil leaves it as it is.
	MAC net.HardwareAddr

	// Addresses are the device's addresses with the length of their network.
	// Without an IPv6 address or route and AcceptRA, IPv6 is switched off on
	// the device.
	Addresses []netip.Prefix

	// AcceptRA lets the guest's kernel form IPv6 addresses and routes from router
	// advertisements (RFC 4862). It asks for one as soon as the device is up.
	AcceptRA bool

	// Routes are routes through the device, in any order.
	Routes []Route

	// ResolvConf and Hosts are the contents of /etc/resolv.conf and /etc/hosts
	// as the guest sees them; nil leaves the host's file in view.
	ResolvConf, Hosts []byte
}

// A Route is a route through the device.
type Route struct {
	// Destination is what the route leads to; a length of 0 makes it a default
	// route.
	Destination netip.Prefix

	// Gateway is the next hop, of the same family; the zero Addr means that the
	// destination is on the link.
	Gateway netip.Addr

	// OnLink takes the gateway to be on the link although no address of the
	// device says so.
	OnLink bool

	// Metric is the route's priority, the lowest is used first; 0 is the kernel's
	// default: 0 for IPv4 and 1024 for IPv6.
	Metric int
}

// A Device is how a network device comes of a file of its driver. The file is
// opened in the guest's network namespace; the methods run in this process, on
// the goroutine that calls Start or Namespace.Attach.
type Device interface {
	// Path is the driver's file, absolute, to be opened for reading and writing.
	Path() string

	// Attach makes f the device called name, in the network namespace in which it
	// was opened. f, which is blocking and close-on-exec, stays the caller's.
	Attach(f *os.File, name string) error

	// Refused returns the error for Path not having been opened, with what helps.
	Refused(err error) error
}
