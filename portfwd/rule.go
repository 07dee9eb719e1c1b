package portfwd

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"taproot/stack/flow"
)

// A Direction says which side of the gateway a rule listens on.
type Direction uint8

// The directions. Inbound is from the host to the guest, outbound from the
// guest to the host.
const (
	Inbound Direction = iota
	Outbound
)

// String returns the direction in lower case.
func (d Direction) String() string {
	if d == Outbound {
		return "outbound"
	}
	return "inbound"
}

// A SourceMode says whom the guest sees as the client of an inbound rule.
type SourceMode uint8

// The modes. SourcePreserve shows the client's own address and port where the
// guest may see them, see the package text, SourceGateway always the gateway's
// address.
const (
	SourcePreserve SourceMode = iota
	SourceGateway
)

// String returns the mode as ParseSourceMode reads it.
func (m SourceMode) String() string {
	if m == SourceGateway {
		return "gateway"
	}
	return "preserve"
}

// A Rule publishes a range of ports. The package text says what the
// combinations mean.
type Rule struct {
	Direction Direction

	// Proto is flow.TCP or flow.UDP.
	Proto flow.Proto

	// Listen is the address and the first port that the rule listens on. Port
	// 0 lets the kernel pick one. Without an address an inbound rule listens
	// on all of both families, an outbound one on both loopbacks; an outbound
	// one must not have an address that is not loopback.
	Listen netip.AddrPort

	// Local has an inbound rule without an address listen on both loopbacks of
	// the host, or on that of IPv4 where the host has no IPv6.
	Local bool

	// ListenUnix is the path of a Unix socket that a TCP rule listens on
	// instead of Listen: of the host for an inbound rule, of the guest for an
	// outbound one. It is absolute.
	ListenUnix string

	// Device is the host's interface that an inbound rule is confined to
	// (SO_BINDTODEVICE); empty for all.
	Device string

	// Ports is how many ports the rule has: Listen.Port() and those after it
	// lead to Target.Port() and those after it. 0 means 1.
	Ports int

	// Target is the address and the first port that the rule leads to. Without
	// an address that is the guest's own of the client's family, or loopback
	// for those that are led there: a loopback or outbound rule allows no other
	// address. Port 0 means that of Listen.
	Target netip.AddrPort

	// TargetUnix is the path of a Unix socket that a TCP rule leads to instead
	// of Target: of the guest for an inbound rule, of the host for an outbound
	// one. It is absolute.
	TargetUnix string

	// Source says whom the guest sees as the client of an inbound rule.
	Source SourceMode

	// Proxy is the version of the PROXY protocol header that begins each
	// connection of an inbound TCP rule and tells the guest the client's
	// address: 1 or 2, or 0 for no header.
	Proxy uint8

	// Loopback makes an inbound rule lead clients on the host's loopback to the
	// guest's. Others are led through the stack, or reset if Target is loopback.
	Loopback bool

	// Freebind lets an inbound rule listen on an address that the host does not
	// have (IP_FREEBIND, ip(7)).
	Freebind bool

	// Wait lets an inbound rule wait for an address that the host does not have
	// yet, see StateWaiting; without it that is an error.
	Wait bool

	// Weak lets the rule do without ports that cannot be bound, as long as one
	// can.
	Weak bool
}

// ErrRule says that a rule contradicts itself; the error that wraps it says
// why.
var ErrRule = errors.New("bad rule")

// Count returns the number of ports.
func (r Rule) Count() int { return max(r.Ports, 1) }

// Reached tells whether at, an address of the host's with its port, is one that clients
// of an inbound rule may have reached.
func (r Rule) Reached(at netip.AddrPort) bool {
	if r.Direction != Inbound || r.ListenUnix != "" || at.Port() < r.Listen.Port() || int(at.Port()) >= int(r.Listen.Port())+r.Count() {
		return false
	}
	return slices.ContainsFunc(r.addresses(), func(a netip.Addr) bool {
		return !a.IsValid() || a == at.Addr().Unmap().WithZone("") || a.IsUnspecified() && a.Is4() == at.Addr().Unmap().Is4()
	})
}

// String returns the rule in the form "inbound tcp 127.0.0.1:80-89 to :8080".
func (r Rule) String() string {
	s := r.Direction.String() + " " + r.Proto.String() + " " + r.from() + " to " + r.to()
	if r.Source != SourcePreserve {
		s += ", source " + r.Source.String()
	}
	if r.Proxy != 0 {
		s += ", PROXY v" + strconv.Itoa(int(r.Proxy))
	}
	return s
}

// from says what the rule listens on.
func (r Rule) from() string {
	if r.ListenUnix != "" {
		return unixPrefix + r.ListenUnix
	}
	s := endpoint(r.Listen)
	if r.Local {
		s = "loopback" + s
	}
	if n := r.Count(); n > 1 {
		s += "-" + strconv.Itoa(int(r.Listen.Port())+n-1)
	}
	if r.Device != "" {
		s += "%" + r.Device
	}
	return s
}

// to says what the rule leads to.
func (r Rule) to() string {
	if r.TargetUnix != "" {
		return unixPrefix + r.TargetUnix
	}
	return endpoint(r.target())
}

// unixPrefix stands before the path of a Unix socket.
const unixPrefix = "unix:"

// endpoint writes an address without the word "invalid".
func endpoint(a netip.AddrPort) string {
	if !a.Addr().IsValid() {
		return ":" + strconv.Itoa(int(a.Port()))
	}
	return a.String()
}

// target returns Target with its port.
func (r Rule) target() netip.AddrPort {
	if r.Target.Port() == 0 {
		return netip.AddrPortFrom(r.Target.Addr(), r.Listen.Port())
	}
	return r.Target
}

// Overlaps tells whether the rule listens on port.
func (r Rule) Overlaps(port uint16) bool {
	first := int(r.Listen.Port())
	return int(port) >= first && int(port) < first+r.Count()
}

// check returns what is wrong with the rule.
func (r Rule) check() error {
	if err := r.checkUnix(); err != nil {
		return err
	}
	last := func(first uint16) int { return int(first) + r.Count() - 1 }
	listen, target := r.Listen.Addr(), r.Target.Addr()
	switch {
	case r.Direction != Inbound && r.Direction != Outbound:
		return fmt.Errorf("%w: no such direction", ErrRule)
	case r.Proto != flow.TCP && r.Proto != flow.UDP:
		return fmt.Errorf("%w: %v has no ports", ErrRule, r.Proto)
	case r.Ports < 0:
		return fmt.Errorf("%w: %d ports", ErrRule, r.Ports)
	case r.Listen.Port() == 0 && r.Count() > 1:
		return fmt.Errorf("%w: a range without a first port", ErrRule)
	case last(r.Listen.Port()) > 65535 || last(r.target().Port()) > 65535:
		return fmt.Errorf("%w: ports above 65535", ErrRule)
	case r.Local && (r.Direction == Outbound || listen.IsValid()):
		return fmt.Errorf("%w: on the host's loopback, and on something else", ErrRule)
	case r.Wait && (r.Direction == Outbound || !listen.IsValid()):
		return fmt.Errorf("%w: it waits for an address, and names none", ErrRule)
	case r.Proxy > 2:
		return fmt.Errorf("%w: PROXY protocol v%d, want v1 or v2", ErrRule, r.Proxy)
	case r.Proxy != 0 && (r.Direction == Outbound || r.Proto != flow.TCP):
		return fmt.Errorf("%w: PROXY protocol, want inbound tcp", ErrRule)
	case r.Source > SourceGateway:
		return fmt.Errorf("%w: no such source", ErrRule)
	case r.Direction == Outbound && r.Device != "":
		return fmt.Errorf("%w: outbound with a device", ErrRule)
	case r.Direction == Outbound && listen.IsValid() && !listen.IsLoopback():
		return fmt.Errorf("%w: outbound from %v, want loopback", ErrRule, listen)
	case r.toLoopback() && target.IsValid() && !target.IsLoopback():
		return fmt.Errorf("%w: to %v, want loopback", ErrRule, target)
	case !r.toLoopback() && target.IsValid() && (target.IsLoopback() || target.IsUnspecified() || target.IsMulticast()):
		return fmt.Errorf("%w: to %v, want an address of the guest", ErrRule, target)
	}
	return nil
}

// checkUnix returns what is wrong with the paths of Unix sockets.
func (r Rule) checkUnix() error {
	listen, target := r.ListenUnix, r.TargetUnix
	switch {
	case listen == "" && target == "":
		return nil
	case r.Proto != flow.TCP:
		return fmt.Errorf("%w: a Unix socket for %v, want tcp", ErrRule, r.Proto)
	case r.Count() > 1:
		return fmt.Errorf("%w: %d ports on one Unix socket", ErrRule, r.Count())
	case listen != "" && (r.Listen != netip.AddrPort{} || r.Local || r.Device != "" || r.Freebind):
		return fmt.Errorf("%w: a Unix socket and an address to listen on", ErrRule)
	case target != "" && (r.Target != netip.AddrPort{} || r.Loopback):
		return fmt.Errorf("%w: a Unix socket and an address to lead to", ErrRule)
	case listen != "" && target == "" && r.Target.Port() == 0:
		return fmt.Errorf("%w: a Unix socket that leads to no port", ErrRule)
	}
	for _, path := range [...]string{listen, target} {
		if path != "" && (!filepath.IsAbs(path) || len(path) > maxUnixPath || strings.ContainsRune(path, 0)) {
			return fmt.Errorf("%w: Unix socket %q, want an absolute path of at most %d bytes", ErrRule, path, maxUnixPath)
		}
		if _, name := filepath.Split(path); path != "" && (name == "" || name == "." || name == "..") {
			return fmt.Errorf("%w: Unix socket %q, want the path of a file", ErrRule, path)
		}
	}
	return nil
}

// maxUnixPath is the longest path of a Unix socket in bytes (sun_path of
// unix(7), without its zero).
const maxUnixPath = 107

// toLoopback tells whether the rule leads to loopback, of either side.
func (r Rule) toLoopback() bool { return r.Loopback || r.Direction == Outbound }

// A Listener is one socket of a rule, as the engine needs to know it. It
// survives encoding as JSON.
type Listener struct {
	// Rule is the rule's id, and Index tells the rule's sockets apart.
	Rule, Index int

	Direction Direction
	Proto     flow.Proto

	// Target is invalid for the guest's own address, or loopback; TargetPort
	// is never 0.
	Target     netip.Addr
	TargetPort uint16

	Loopback bool

	// Unix tells that the socket is a Unix socket.
	Unix bool

	// TargetUnix tells that the rule leads to a Unix socket, which the
	// supervisor connects to; TargetPort is 0 then.
	TargetUnix bool

	Source SourceMode
	Proxy  uint8
}

// listener describes the rule's socket index, which is for port i of the range
// and is bound to port.
func (r Rule) listener(id, index, i int, port uint16) Listener {
	if first := r.target().Port(); first != 0 {
		port = first + uint16(i)
	}
	if r.TargetUnix != "" {
		port = 0
	}
	return Listener{
		Rule: id, Index: index, Direction: r.Direction, Proto: r.Proto,
		Target: r.Target.Addr().Unmap(), TargetPort: port, Loopback: r.Loopback,
		Unix: r.ListenUnix != "", TargetUnix: r.TargetUnix != "",
		Source: r.Source, Proxy: r.Proxy,
	}
}
