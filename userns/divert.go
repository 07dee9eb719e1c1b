package userns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// A Divert says what Namespace.Divert is to divert.
type Divert struct {
	// Interface is the device whose TCP connections may be diverted. It has its
	// addresses and is up, and so is lo, unless it is for Later.
	Interface string

	// Gateway is the hardware address at the other end of the device.
	Gateway net.HardwareAddr

	// Except are destinations whose connections are left alone.
	Except []netip.Addr

	// Nested are networks behind the guest whose connections may be diverted too;
	// none diverts those of the guest's own sockets only.
	Nested []netip.Prefix

	// Later leaves all but the listeners to Restore, which is then called when
	// somebody else has set the device up.
	Later bool

	// Outlives says that the namespace may live longer than this process. What is
	// added to it is then removed by a process of its own if this one is killed, by
	// SIGKILL too, and its process group with it.
	Outlives bool

	// Device, if not nil, is held by that process, so that the device is there as
	// long as what was added for it. It stays the caller's.
	Device *os.File
}

// A Diversion is what stands in the guest's namespace so that its outbound TCP
// connections can be made between sockets: the guest's own ones, and those from
// networks that are nested in it. It has no goroutine; its methods are safe for
// concurrent use.
type Diversion struct {
	want      Divert
	link      int32 // index of the device; 0 before anything was made
	listeners []*os.File
	sides     []*side // one for each family
	conf      map[uint8]*os.File
	tracking  *os.File // trackingPath; nil if there is none
	routes    *rtnl
	rules     *nft.Conn

	routeSocket *os.File // of routes
	ruleSocket  *os.File // of rules
	lookout     lookout

	mu sync.Mutex
	// +checklocks:mu
	options options
	// +checklocks:mu
	lacks []error // why options are not all that was wanted
	// +checklocks:mu
	clients []*os.File // packet sockets; none without options.entering
	// +checklocks:mu
	sysctls []savedSysctl
	// +checklocks:mu
	down map[int32]bool // links that were seen to be down
	// crowded says that the guest may have nested networks or translate addresses:
	// there was another device that was up, or another table of nf_tables.
	// +checklocks:mu
	crowded bool
	// +checklocks:mu
	heir bool // there were rules of ours before; who made them was killed, and its executor
	// +checklocks:mu
	executor *executor // nil before anything was made, or without want.Outlives
	// +checklocks:mu
	will will // what the executor has
	// +checklocks:mu
	removed bool
}

// Divert makes the rules that divert connections, and listeners that get what
// was diverted. See Diversion.Remove for how it ends. On an error nothing of it
// is left; those with a remedy implement interface{ Hint() string }.
//
// What it adds to the namespace, for IPv4 and, where there is, IPv6:
//
//   - a table "taproot" of nf_tables, in each family;
//   - routing rules of preference 60 (packets with mark 0x50000000/0x70000000 to
//     table 29793) and 61 (TCP of sockets bound to the device to table 29794);
//   - in routing table 29793 local routes of all addresses, in 29794 a default
//     route through the device by 192.0.0.8 and fe80::7461:7072:6f6f:7400, and
//     permanent neighbours of these addresses, which mean the gateway;
//   - sockets that listen at 192.0.0.8 and 100::8, port 1, where nobody else can
//     reach them;
//   - packet sockets bound to lo, if there are such, see Clients;
//   - for the device the sysctl accept_local = 1 of net.ipv4.conf and, if it was
//     1 there or for all devices, rp_filter = 2.
//
// What is for nested networks, and for guests that translate addresses, is made
// when there is another device that is up or another table of nf_tables, by Wait if
// that comes later: a chain that translates, which costs each datagram of the guest's
// a tenth of the time that it takes to send it, and the sysctl
// net.ipv4.tcp_early_demux = 0. Until then connections go by frames whose source
// somebody translates.
//
// The rules set the DSCP of SYNs to the device, the bits 0x70000000 of packet marks
// and three bits of connection labels, and keep the source of diverted connections
// from being translated. They come after all rules of the guest's. See package mark
// for the numbers and for what is in the frames.
func (n *Namespace) Divert(ctx context.Context, d Divert) (*Diversion, error) {
	d.Except, d.Nested = slices.Clone(d.Except), slices.Clone(d.Nested)
	v := &Diversion{want: d, options: allOptions(len(d.Nested) > 0), conf: map[uint8]*os.File{}, down: map[int32]bool{}}
	err := v.reach(ctx, n)
	if err == nil && !d.Later {
		err = v.install()
	}
	if err != nil {
		err = errors.Join(err, v.Remove())
		closeFiles(v.listeners)
		closeFiles(v.Clients())
		return nil, fmt.Errorf("divert TCP of %s: %w", d.Interface, err)
	}
	return v, nil
}

// Listeners returns the sockets that get what is diverted, one of each family,
// non-blocking. They are the caller's. What they accept has the address of the
// initiator as its peer's and the one that the initiator connected to as its own.
func (d *Diversion) Listeners() []*os.File { return d.listeners }

// Clients returns packet sockets (packet(7)) that get the SYNs of TCP sockets in the
// namespace which stand for clients of published ports, one of each family,
// non-blocking; none if that is not possible here. They are the caller's. Such a
// socket has the mark mark.Client, is transparent, and is bound to the client's
// address. Nobody else gets its SYN: it is to be written to the device, with the
// code point mark.Entering, to be treated as what comes from outside. All that
// follows goes from socket to socket. What is read begins with a virtio-net header
// and an Ethernet header.
func (d *Diversion) Clients() []*os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clients
}

// Nested tells whether connections from networks nested in the guest's are
// diverted too, as soon as there are any.
func (d *Diversion) Nested() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.options.nested
}

// A side is a family's part of a diversion.
type side struct {
	family   uint8 // unix.AF_*, which equals unix.NFPROTO_*
	conf     string
	listener netip.AddrPort
	bound    netip.Addr // stands for the gateway in RouteBound
}

// sides returns the families that the kernel has. The addresses are nobody's: the dummy address of
// RFC 7600 section 4.8, one of the discard-only prefix of RFC 6666, and a
// link-local one with our name in it.
func sides() []*side {
	all := []*side{
		{unix.AF_INET, "/proc/sys/net/ipv4/conf", netip.MustParseAddrPort("192.0.0.8:1"), netip.MustParseAddr("192.0.0.8")},
		{unix.AF_INET6, confPath, netip.MustParseAddrPort("[100::8]:1"), netip.MustParseAddr("fe80::7461:7072:6f6f:7400")},
	}
	return slices.DeleteFunc(all, func(s *side) bool { return !exists(s.conf) })
}

// trackingPath has the sysctls of connection tracking.
const trackingPath = "/proc/sys/net/netfilter"

// reach gets what is needed out of the namespace, by one child.
func (d *Diversion) reach(ctx context.Context, n *Namespace) error {
	route := Socket{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_ROUTE}
	filter := Socket{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_NETFILTER}
	var files []file
	sockets := []Socket{route, filter, route, filter}
	const fixed = 4
	d.sides = sides()
	for _, s := range d.sides {
		files = append(files, file{s.conf, unix.O_PATH | unix.O_DIRECTORY})
		sockets = append(sockets, Socket{
			Family: int(s.family), Type: unix.SOCK_STREAM, Bind: s.listener,
			Listen: true, V6Only: s.family == unix.AF_INET6, Transparent: true, Mark: mark.Answer, Passed: true,
		})
	}
	if exists(trackingPath) {
		files = append(files, file{trackingPath, unix.O_PATH | unix.O_DIRECTORY})
	}
	made, err := n.make(ctx, files, append(slices.Clip(sockets), clientSockets(d.sides)...))
	if noClientSockets(err, len(sockets)) {
		d.leaveOutEntering(err)
		made, err = n.make(ctx, files, sockets)
	}
	if err != nil {
		return n.reachError(ctx, sockets, err)
	}
	for i, s := range d.sides {
		d.conf[s.family] = made[i]
	}
	if len(files) > len(d.sides) {
		d.tracking = made[len(d.sides)]
	}
	made = made[len(files):]
	d.listeners = made[fixed:len(sockets)]
	return errors.Join(d.addClients(made[len(sockets):]), d.connect(made[:fixed]))
}

// connect begins to use the netlink sockets of reach, which it takes over.
func (d *Diversion) connect(sockets []*os.File) error {
	d.lookout = lookout{routing: sockets[2], rules: sockets[3]}
	d.routeSocket, d.ruleSocket = sockets[0], sockets[1]
	var err error
	if d.routes, err = newRTNL(sockets[0]); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	rules, err := newKernelSocket(sockets[1])
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	d.rules = nft.NewConn(rules)
	return d.lookout.subscribe()
}

// reachError explains why there is nothing of the namespace.
func (n *Namespace) reachError(ctx context.Context, sockets []Socket, err error) error {
	var t *trouble
	if errors.As(err, &t) && t.step == stepSocket && t.index < len(sockets) && sockets[t.index].Protocol == unix.NETLINK_NETFILTER {
		return noTables(t)
	}
	return n.socketError(ctx, sockets, err)
}

// noTables is the error of a kernel without a socket for nf_tables.
func noTables(err error) error {
	return &hinted{fmt.Errorf("this kernel has no nf_tables: %w", err), hintModules}
}

// hintModules is the remedy for a kernel that has not loaded what the rules need.
const hintModules = "as root: modprobe -a nf_tables nft_ct nft_tproxy nft_fib_ipv4 nft_fib_ipv6 nft_chain_nat nft_nat"

// install makes all that is not there.
func (d *Diversion) install() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return os.ErrClosed
	}
	link, err := d.routes.link(d.want.Interface)
	if err != nil {
		return err
	}
	if d.link == 0 {
		d.heir = d.hasAnyRules()
	}
	d.link = link
	if err := d.look(); err != nil {
		return err
	}
	if err := d.bequeath(); err != nil {
		return err
	}
	if err := d.setSysctls(); err != nil {
		return err
	}
	for _, s := range d.sides {
		if err := d.route(s); err != nil {
			return err
		}
	}
	return d.setRules()
}

// setRules puts our tables in the place of what is there of them. What the
// kernel lacks is left out where that is possible.
//
// +checklocks:d.mu
func (d *Diversion) setRules() error {
	for {
		err := d.rules.Replace(d.tables())
		var failed *nft.Error
		if err == nil || !errors.As(err, &failed) || !lacking(err) {
			return err
		}
		err = &hinted{fmt.Errorf("this kernel's nf_tables lacks a part: %w", err), hintModules}
		switch {
		case d.options.fib && failed.Object == fibRule:
			d.options.fib = false
		case d.options.entering && failed.Object == enteringRule:
			d.options.entering = false
			closeFiles(d.clients)
			d.clients = nil
		case d.nests():
			d.options.nested = false
		default:
			return err
		}
		d.lacks = append(d.lacks, err)
	}
}

// lacking tells whether an error of nf_tables means that a module is missing.
func lacking(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPROTONOSUPPORT)
}

// tables returns our tables.
//
// +checklocks:d.mu
func (d *Diversion) tables() []nft.Table {
	var tables []nft.Table
	for _, r := range d.rulesets() {
		tables = append(tables, r.table())
	}
	return tables
}

// rulesets returns what makes them, one for each family.
//
// +checklocks:d.mu
func (d *Diversion) rulesets() []*ruleset {
	rulesets := make([]*ruleset, len(d.sides))
	wants := d.options
	wants.nested = d.nests()
	for i, s := range d.sides {
		r := &ruleset{
			family: s.family, link: uint32(d.link), to: s.listener, wants: wants,
			bound: s.bound,
		}
		for _, addr := range d.want.Except {
			if family(addr.Unmap()) == int(s.family) {
				r.except = append(r.except, addr.Unmap())
			}
		}
		for _, p := range d.want.Nested {
			if family(p.Addr()) == int(s.family) {
				r.behind = append(r.behind, p)
			}
		}
		rulesets[i] = r
	}
	return rulesets
}
