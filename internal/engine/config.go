package engine

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/tap"
	"taproot/userns"
)

// A Config says what the guest's network is like. Front ends fill it in.
type Config struct {
	// Plan chooses the guest's addresses and routes. It is asked at the start
	// and, unless NoFollow is set, whenever the host's network has changed. nil
	// means that the guest has no device and nothing but published ports that
	// lead to its loopback or from there.
	Plan Planner

	// Down leaves the device as it was made, for somebody in the guest to set
	// up; only the loopback works.
	Down bool

	// KeepFiles leaves the resolv.conf and hosts of Run's command as they are.
	KeepFiles bool

	// Offload says how the TAP device is opened.
	Offload tap.Offload

	// Shortcut says whether TCP may go from socket to socket instead of by
	// frames. It needs offloads and is not used with Capture, which would miss
	// what goes that way. The environment variable ShortcutVariable stands for
	// ShortcutAuto.
	Shortcut Shortcut

	// DNS says what answers at the guest's resolver address.
	DNS DNS

	// HostLoopback are the ports of the host's loopback that the guest reaches
	// at the gateway's address. The zero value opens none.
	HostLoopback policy.Ports

	// AllowHost are the ports of the host's own, non-loopback addresses that
	// the guest may reach. The zero value opens none.
	AllowHost policy.Ports

	// AllowLinkLocal opens 169.254.0.0/16, fe80::/10 and the cloud metadata
	// addresses.
	AllowLinkLocal bool

	// Maps are addresses that mean others on the host.
	Maps []policy.Map

	// HostAt are addresses that mean the host, under its main address of the
	// same family.
	HostAt []netip.Addr

	// Announce is what guests are told by DHCP and router advertisements.
	Announce Announce

	// Denied is the ICMP error that answers what the policy denies; the zero
	// value means administratively prohibited.
	Denied nat.ErrorKind

	// Bind says which address and device of the host outgoing flows use.
	Bind nat.Bind

	// Without leaves parts of the gateway out.
	Without Without

	// Rules are the published ports at the start, with the ids 1, 2 and so on.
	// If one cannot be, nothing is.
	Rules []portfwd.Rule

	// Refuse has published TCP ports refuse clients while nobody in the guest
	// listens behind them, see portfwd.Refuser. Otherwise clients are accepted and
	// reset.
	Refuse bool

	// Listeners are sockets of the host that the caller opened (socket
	// activation): a port that would be bound where one is already uses it. They
	// belong to the caller.
	Listeners []*os.File

	// Auto are ports that are published while somebody listens. Others are
	// added by Ready.
	Auto []portfwd.AutoConfig

	// Sandbox says what the engine gives up.
	Sandbox Sandbox

	// Limits are numbers for the engine's limits other than the usual ones. The
	// environment variable LimitVariable stands for those that are not among them.
	Limits LimitSettings

	// Capture gets every frame both ways in the format of pcap; nil means no
	// capture. It belongs to the caller.
	Capture *os.File

	// Stats is how often the engine writes its counters to its standard error; 0
	// means never.
	Stats time.Duration

	// NoFollow keeps what was read of the host at the start.
	NoFollow bool

	// Ready is called when everything works: before the command runs, or when
	// the namespace is attached. An error ends it all. nil means nobody asks.
	Ready func(*Instance) error

	// Stderr gets what the engine's process says when it dies. nil means the
	// supervisor's standard error.
	Stderr io.Writer

	// Log gets what the supervisor and the engine have to say; nil means
	// nothing is logged. Debug tells each step of start-up and each flow.
	Log *slog.Logger

	// Warn gets what the user should know although the guest starts: a network
	// that clashes with one of the host's, for instance. nil discards it.
	Warn func(message, hint string)
}

// A Planner chooses the guest's network.
type Planner interface {
	Plan(plan.Warn) (plan.Plan, error)
}

// DNS says what answers at the guest's resolver address.
type DNS struct {
	// Off means nothing answers, and the guest's resolv.conf is left alone.
	Off bool

	// Servers are the resolvers that get the guest's queries; none means those
	// of the host's resolv.conf, followed when it changes.
	Servers []netip.AddrPort

	// Ports of the resolver's address other than 53 lead to the same ports of
	// the first server. The zero value opens none.
	Ports policy.Ports
}

// An Announce is what guests are told besides their addresses.
type Announce struct {
	// DNS tells them of resolvers: Resolvers, or if there are none the guest's
	// own, or if there is none the host's that are not on its loopback.
	DNS       bool
	Resolvers []netip.Addr

	// Search tells them of search domains: Domains, or if there are none the
	// host's.
	Search  bool
	Domains []string

	// Hostname and FQDN are the guest's name and its full name, for DHCP; "" are
	// left out.
	Hostname, FQDN string
}

// Without names what the gateway shall not do.
type Without struct {
	TCP, UDP, ICMP   bool // flows of these protocols
	DHCP, DHCPv6, RA bool // services
}

// An Attachment is a network that exists and lacks only us.
type Attachment struct {
	// Target names the namespaces.
	Target userns.Target

	// Device is a device that the caller opened, instead of one to be made in
	// Target: a TAP, or a SEQPACKET socket with a frame in each packet. It
	// belongs to the caller. Nothing is configured then.
	Device *os.File

	// Bare has the device opened and nothing configured.
	Bare bool

	// Follow says when the target counts as gone.
	Follow userns.Follow

	// Stay keeps the attachment when the target is gone.
	Stay bool
}
