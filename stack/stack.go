package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"taproot/stack/link"
	"taproot/stack/reassembly"
	"taproot/tap"
)

// nic is the number of the stack's only interface.
const nic tcpip.NICID = 1

// largestMTU is the largest MTU that gVisor is told of, in bytes. Beyond it,
// gVisor would send segments of one MSS each instead of superframes: at 65520
// one flow into the guest makes 11 Gbit/s, with 9000 it makes 17.
const largestMTU = 9000

// MaxPending is how many TCP requests may wait for their host at once, by default.
// The usual listen queue of Linux is 4096 as well (net.core.somaxconn).
const MaxPending = 4096

// AsksPerSecond is how often the guest may ask who has an address or is a router, by
// default: as many times as Linux sends ICMP errors (icmp_msgs_per_sec), and a thousand
// times more than a kernel asks that keeps the answers for half a minute. Who is not
// answered asks again after a second (RFC 4861 §10, RETRANS_TIMER).
const AsksPerSecond = 1000

// A Config describes a stack.
type Config struct {
	// Device is the TAP device's host side, which the stack takes over.
	Device *tap.Device

	// MTU is the TAP device's, in bytes of IP packet.
	MTU int

	// MAC is the gateway's hardware address.
	MAC net.HardwareAddr

	// Addresses are the gateway's own: it answers ARP, neighbour solicitation
	// and echo for them.
	Addresses []netip.Addr

	// LinkLocal is the gateway's link-local address of IPv6, from which it
	// advertises itself. The zero Addr means the one made of MAC (RFC 4291
	// §2.5.1).
	LinkLocal netip.Addr

	// Capture gets every frame both ways in the format of pcap, and is taken
	// over; see link.Stats.Uncaptured. nil captures nothing.
	Capture *os.File

	// Source tells whether the guest may use a source address. nil allows all.
	Source func(netip.Addr) bool

	// Neighbours tells for which addresses besides its own the gateway answers
	// ARP and neighbour solicitation, so that the guest finds it where it
	// believes to have neighbours: for all but the guest's own, in a network
	// copied from the host's. nil answers for none. Probes for duplicate
	// addresses are never answered in the name of others. It must not block.
	Neighbours func(netip.Addr) bool

	// Memory is how many bytes of the process's memory may be in use before
	// connections are reset, oldest idle one first; their buffers are made small
	// before that. 0 sets no limit.
	Memory uint64

	// MaxPending is how many TCP requests may wait for their host at once; 0 means
	// the constant of that name.
	MaxPending int

	// AsksPerSecond is how often the guest may ask who has an address or is a router; 0
	// means the constant of that name.
	AsksPerSecond int

	// Rest is link.Config.Rest.
	Rest func() time.Duration

	// MaxFragments is how many bytes of packets that are not complete may be held.
	// Zero means reassembly.DefaultLimit.
	MaxFragments int
}

// A Stack is the gateway. Its methods are safe for concurrent use; handlers
// are set before Run.
type Stack struct {
	stack *stack.Stack
	link  *link.Endpoint
	mtu   int
	mac   net.HardwareAddr

	own        map[netip.Addr]bool
	linkLocal  netip.Addr
	neighbours func(netip.Addr) bool
	maxPending int // requests

	syn          func(*SYN) bool
	synPoints    uint64   // a bit for each DSCP whose SYNs go to syn
	workers      *workers // of requests, nil without a handler
	stray        func(*Stray) bool
	udp          func(Datagram)
	echo         func(Echo)
	solicitation func()
	refusal      func(Refusal)
	idle         func()
	late         chan lateSYN // see settle

	// scratch is a datagram in one piece, headScratch its headers. The link's
	// reader owns both.
	scratch     []byte
	headScratch []byte

	asks       *rate.Limiter
	suppressed atomic.Uint64 // asks that were too many

	asked bool // the guest's last frame asks who has an address; the reader's

	memory *keeper

	fragments *reassembly.Table
	overdue   *rate.Limiter // ICMP errors about packets that were never complete

	fragmentID    atomic.Uint32 // of the last packet that was cut
	datagramHeads sync.Pool     // of *datagramHead

	mu sync.Mutex
	// heads holds the first bytes of the SYNs that are being answered.
	// +checklocks:mu
	heads map[stack.TransportEndpointID][]byte
	// ended says that Accept accepts nothing any more.
	// +checklocks:mu
	ended     bool
	accepting sync.WaitGroup // calls of Accept under way; none begins after ended
}

// New returns a stack that does not move packets yet.
func New(cfg Config) (*Stack, error) {
	switch {
	case cfg.Device == nil:
		return nil, errors.New("new stack: no device")
	case cfg.LinkLocal.IsValid() && !(cfg.LinkLocal.Is6() && cfg.LinkLocal.IsLinkLocalUnicast()):
		return nil, fmt.Errorf("new stack: %v is not a link-local address of IPv6", cfg.LinkLocal)
	}
	// gVisor tells stderr of a guest's packets that it finds odd; what is left
	// are its own mistakes.
	log.SetLevel(log.Warning)
	s := &Stack{
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		}),
		mtu:        cfg.MTU,
		mac:        cfg.MAC,
		own:        make(map[netip.Addr]bool),
		linkLocal:  cfg.LinkLocal,
		neighbours: cfg.Neighbours,
		maxPending: cfg.MaxPending,
		scratch:    make([]byte, 0, 65536),
		heads:      make(map[stack.TransportEndpointID][]byte),
		late:       make(chan lateSYN, maxLate),
		memory:     newKeeper(cfg.Memory),
	}
	s.datagramHeads.New = func() any { return new(datagramHead) }
	perSecond := cmp.Or(cfg.AsksPerSecond, AsksPerSecond)
	s.asks = rate.NewLimiter(rate.Limit(perSecond), perSecond)
	s.fragments = reassembly.New(reassembly.Config{Limit: cfg.MaxFragments, Expired: s.tellOverdue})
	s.overdue = rate.NewLimiter(overduePerSecond, overduePerSecond)
	if s.maxPending <= 0 {
		s.maxPending = MaxPending
	}
	if !s.linkLocal.IsValid() {
		s.linkLocal = linkLocal(cfg.MAC)
	}
	s.link = link.New(link.Config{
		Device:     cfg.Device,
		MTU:        min(cfg.MTU, largestMTU),
		MAC:        cfg.MAC,
		Filter:     sourceFilter(cfg.Source),
		Capture:    cfg.Capture,
		Classifier: s,
		Idle: func() {
			if s.idle != nil {
				s.idle()
			}
		},
		Linger: s.linger,
		Rest:   cfg.Rest,
	})
	if err := s.setOptions(); err != nil {
		return nil, err
	}
	if err := s.addInterface(cfg); err != nil {
		return nil, err
	}
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, s.handleUDP)
	s.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, s.handleEcho4)
	s.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, s.handleEcho6)
	return s, nil
}

// noTimeWait makes a connection that we closed first be forgotten at once. What
// TIME-WAIT is for, late segments of an old connection (RFC 9293 §3.3.2), does
// not exist on a link that keeps their order; should the last ACK be lost, the
// guest, which has closed as well, gets RST for its FIN. With TIME-WAIT, gVisor
// drops the SYN of a guest that uses the port again, which RFC 1122 §4.2.2.13
// would accept: at 4,000 connections per second a quarter of them met that,
// and waited a second.
const noTimeWait = tcpip.TCPTimeWaitTimeoutOption(0)

// noProbes switches RACK and tail loss probes off (RFC 8985). They wait for
// about a round trip, which here is shorter than a busy machine keeps us from
// running: what they find is no loss but our own absence, and each time the
// congestion window is halved. A frame that the guest's kernel did drop is
// still found by duplicate ACKs, SACK and the retransmission timer.
const noProbes = tcpip.TCPRecovery(0)

// setOptions sets TCP up for a link without loss.
func (s *Stack) setOptions() error {
	sack, moderate, delay := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.TCPDelayEnabled(false)
	wait, recovery := noTimeWait, noProbes
	congestion := tcpip.CongestionControlOption("cubic")
	// 1 MiB each way at the start, 4 MiB at most: more made no difference.
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &delay, &wait, &recovery, &congestion, &send, &receive} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("set TCP option %T: %w", o, toError(err))
		}
	}
	return nil
}

// addInterface makes the interface and gives it addresses and routes. It
// accepts packets to any address and sends from any.
func (s *Stack) addInterface(cfg Config) error {
	if err := s.stack.CreateNIC(nic, s.link); err != nil {
		return fmt.Errorf("create interface: %w", toError(err))
	}
	if err := s.stack.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("accept packets to any address: %w", toError(err))
	}
	if err := s.stack.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("send packets from any address: %w", toError(err))
	}
	for _, a := range append([]netip.Addr{s.linkLocal}, cfg.Addresses...) {
		if s.own[a] {
			continue
		}
		if err := s.addAddress(a); err != nil {
			return err
		}
	}
	// RFC 8415 §7.1: clients multicast to all relay agents and servers.
	if err := s.stack.JoinGroup(ipv6.ProtocolNumber, nic, toAddress(netip.MustParseAddr("ff02::1:2"))); err != nil {
		return fmt.Errorf("join DHCPv6 group: %w", toError(err))
	}
	s.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	return nil
}

func (s *Stack) addAddress(a netip.Addr) error {
	protocol := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
	if a.Is6() {
		protocol = ipv6.ProtocolNumber
	}
	if err := s.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          protocol,
		AddressWithPrefix: toAddress(a).WithPrefix(),
	}, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("add address %v: %w", a, toError(err))
	}
	s.own[a] = true
	return nil
}

// linkLocal returns the address that RFC 4291 §2.5.1 makes of a MAC.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16(header.LinkLocalAddr(tcpip.LinkAddress(mac)).As16())
}

// LinkLocal returns the gateway's link-local address.
func (s *Stack) LinkLocal() netip.Addr { return s.linkLocal }

// Link returns the counters of the link.
func (s *Stack) Link() *link.Stats { return &s.link.Stats }

// Memory returns how much of Config.Memory is in use.
func (s *Stack) Memory() *Memory { return &s.memory.Memory }

// Pending returns how many requests of TCP wait to be answered, of which there may
// be Config.MaxPending, and how many were dropped because there were as many.
func (s *Stack) Pending() (now int, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.heads), s.stack.Stats().TCP.ForwardMaxInFlightDrop.Value()
}

// Suppressed returns how many of the guest's questions, who has an address or is a
// router, were too many.
func (s *Stack) Suppressed() uint64 { return s.suppressed.Load() }

// Fragments returns the numbers of packets that are not complete.
func (s *Stack) Fragments() *reassembly.Stats { return &s.fragments.Stats }

// Stop ends Run after the packets that the guest has sent until now, with those that
// wait in its kernel for an answer to who has the gateway's address.
func (s *Stack) Stop() error { return s.link.Stop() }

// Run moves packets until ctx ends, which is no error, or the device is gone.
// All goroutines of the stack have returned when Run returns.
func (s *Stack) Run(ctx context.Context) error {
	lateCtx, stopLate := context.WithCancel(ctx)
	var late sync.WaitGroup
	late.Go(func() { s.deliverLate(lateCtx) })
	late.Go(func() { s.memory.run(lateCtx) })
	late.Go(func() { s.fragments.Run(lateCtx) })
	err := s.link.Run(ctx)
	stopLate()
	late.Wait()
	s.stack.Close()
	s.abort()
	s.stack.Wait()
	if s.workers != nil {
		s.workers.close()
	}
	return err
}
