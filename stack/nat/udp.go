package nat

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/policy"

	"golang.org/x/sys/unix"
)

const (
	// defaultIdle is how long a UDP flow lives without a datagram either way.
	// RFC 4787 REQ-5: not less than 2 minutes.
	defaultIdle = 2 * time.Minute

	// defaultDNSIdle is the same for port 53, where a flow is one question and
	// its answer, and resolvers take a new port for each. RFC 4787 REQ-5 a
	// allows shorter times for well-known ports.
	defaultDNSIdle = 10 * time.Second

	// answeredIdle is the same when every question has its answer. A resolver
	// with a new port for each of 1000 questions per second would fill the
	// flow table in 8 s otherwise.
	answeredIdle = time.Second

	dnsPort = 53

	// ethernetMTU bounds, in bytes of IP packet, what we do not let the host
	// fragment when the guest says so; see the package text.
	ethernetMTU = 1500

	// hostTTL is the TTL that the host's kernel takes by itself, RFC 1700. A
	// guest's packet that has it needs no control message.
	hostTTL = 64
)

// A UDPConfig says what a UDP works with.
type UDPConfig struct {
	Config

	// Published is asked first about each datagram of the guest's, and returns
	// true for one that it has taken: a reply from a published port. It is
	// called by Handle, under Handle's conditions. nil takes none.
	Published func(stack.Datagram) bool

	// Idle is how long a flow lives without traffic, DNSIdle the same for
	// flows to port 53. 0 means 2 minutes and 10 seconds. They are rounded up
	// to seconds. A flow to port 53 ends 1 second after the last answer when
	// no question is left.
	Idle, DNSIdle time.Duration

	// HoldBack lets Handle keep datagrams until Flush, so that several go to
	// the host in one call. Both must then be called on one goroutine.
	HoldBack bool
}

// Stats count what did not go the usual way. Everything here can be caused by
// the guest or a peer, so it is counted and not logged.
type Stats struct {
	Denied  atomic.Uint64 // packets of the guest's that a rule forbids
	Spoofed atomic.Uint64 // packets whose source is not the guest's
	Full    atomic.Uint64 // packets dropped at the limit of flows or descriptors

	Evicted      atomic.Uint64 // flows without an answer that were ended for these
	NoDescriptor atomic.Uint64 // those of Full that met the limit of descriptors
	Expired      atomic.Uint64 // packets whose TTL ended at the gateway
	Dropped      atomic.Uint64 // packets dropped because the host was not ready
	Failed       atomic.Uint64 // packets that the host refused
	Filtered     atomic.Uint64 // messages from the host's side that nobody asked for
	Undelivered  atomic.Uint64 // messages and errors that the guest's link refused
	Errors       atomic.Uint64 // ICMP errors sent to the guest
	Suppressed   atomic.Uint64 // ICMP errors held back by the rate limit
	Ignored      atomic.Uint64 // ICMP errors of the host's side with no meaning for the guest
}

// A UDP carries the guest's datagrams to the host and back. The package text
// says how. Handle may be called from several goroutines, unless it holds
// datagrams back.
type UDP struct {
	mapper
	published             func(stack.Datagram) bool
	outbox                *outbox // nil if Handle sends at once
	idleTime, dnsIdleTime time.Duration
}

// NewUDP returns a UDP whose Run is to be called once: it releases what the
// UDP takes.
func NewUDP(cfg UDPConfig) (*UDP, error) {
	u := &UDP{idleTime: cfg.Idle, dnsIdleTime: cfg.DNSIdle, published: cfg.Published}
	if u.idleTime <= 0 {
		u.idleTime = defaultIdle
	}
	if u.dnsIdleTime <= 0 {
		u.dnsIdleTime = defaultDNSIdle
	}
	if cfg.HoldBack {
		u.outbox = newOutbox()
	}
	if err := u.init(cfg.Config, u, flow.UDP, policy.UDP); err != nil {
		return nil, err
	}
	return u, nil
}

// Run reads replies and expires flows until ctx ends, then closes all flows
// and returns nil. It owns two goroutines, one of them the caller's; both have
// returned when it returns. It fails only if the host's poller does.
func (u *UDP) Run(ctx context.Context) error { return u.run(ctx) }

// Handle sends a datagram of the guest's on its way, or holds a copy of it back
// for Flush. It does not block and keeps nothing of d.
func (u *UDP) Handle(d stack.Datagram) {
	if u.published != nil && u.published(d) {
		return
	}
	if u.expires(d.TTL, d.Destination.Addr(), d.Header) {
		return
	}
	p := u.acquire(pair{d.Source, d.Destination}, d.Header)
	if p == nil {
		return
	}
	size := len(d.Payload)
	if d.Segment > 0 {
		size = min(size, d.Segment)
	}
	p.remember(header{uint16(size), d.TTL, d.TOS})
	df := dontFragment(d.Header, udpHeaderLen+size)
	var c socket.Control
	p.addHeader(&c, d.TTL, d.TOS)
	if u.hold(p, d, c, df) {
		return
	}
	p.mapping.socket.setDontFragment(df)
	u.dispatch(p, d, c)
	p.mapping.socket.Release()
}

// dispatch sends a datagram at once, or tells the guest why not.
func (u *UDP) dispatch(p *peer, d stack.Datagram, c socket.Control) {
	if err := sendDatagrams(p, d, c); err != nil {
		u.refuse(err, d.Header)
		return
	}
	p.sentDatagram(len(d.Payload))
}

// sentDatagram counts a datagram of n bytes that the host has taken.
func (p *peer) sentDatagram(n int) {
	p.flow.ToTarget.Add(int64(n))
	p.pending.Add(1)
}

// expires answers for packets whose TTL ends at the gateway, which is the
// first hop of a traceroute. What is meant for the gateway itself has arrived.
func (m *mapper) expires(ttl uint8, destination netip.Addr, original []byte) bool {
	if ttl > 1 || destination == m.cfg.gatewayFor(destination) {
		return false
	}
	m.Stats.Expired.Add(1)
	m.tell(TimeExceeded, original)
	return true
}

// remember keeps what an error that comes later needs to know.
func (p *peer) remember(h header) {
	if v := h.pack(); p.sent.Load() != v {
		p.sent.Store(v)
	}
	if p.mapping.last.Load() != p {
		p.mapping.last.Store(p)
	}
}

// addHeader makes the host send with the guest's TTL less this hop, and with
// its TOS. Traffic to the host's own services keeps the host's.
func (p *peer) addHeader(c *socket.Control, ttl, tos uint8) {
	v4 := p.target.Addr().Is4()
	if ttl != hostTTL && p.sameAddress() {
		if v4 {
			c.Integer(unix.IPPROTO_IP, unix.IP_TTL, int32(ttl-1))
		} else {
			c.Integer(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, int32(ttl-1))
		}
	}
	if tos == 0 {
		return
	}
	if v4 {
		c.Integer(unix.IPPROTO_IP, unix.IP_TOS, int32(tos))
	} else {
		c.Integer(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int32(tos))
	}
}

// dontFragment reports whether the guest's packet, of which head is the start
// and length what follows the IP header, must not be fragmented on its way.
func dontFragment(head []byte, length int) bool {
	return len(head) >= ipv4HeaderLen && head[0]>>4 == 4 && head[6]&0x40 != 0 &&
		ipv4HeaderLen+length <= ethernetMTU
}

// sendDatagrams sends a datagram, or the datagrams of a superframe: in one
// call where the kernel takes them so, else one by one.
func sendDatagrams(p *peer, d stack.Datagram, c socket.Control) error {
	if d.Segment <= 0 || d.Segment >= len(d.Payload) {
		return p.send(nil, d.Payload, &c)
	}
	whole := c
	whole.Segment(d.Segment)
	err := p.send(nil, d.Payload, &whole)
	if !socket.MustSplit(err) {
		return err
	}
	for part := range slices.Chunk(d.Payload, d.Segment) {
		if err := p.send(nil, part, &c); err != nil {
			return err
		}
	}
	return nil
}

// send sends one message. The kernel reports an error about an earlier message
// once, on whatever call comes next; that call has then done nothing and is
// repeated. What really belongs to this message comes again.
func (p *peer) send(head, payload []byte, c *socket.Control) error {
	s := p.mapping.socket
	err := s.SendMessage(&p.to, head, payload, c)
	if err == nil {
		return nil
	}
	s.errors.Lock()
	defer s.errors.Unlock()
	// Only an ICMP error that arrives right now can come in between.
	for range 3 {
		// An error about the size is not repeated: each would be queued.
		if kind, ok := kindOf(err); !ok || kind == PacketTooBig {
			break
		}
		err = s.SendMessage(&p.to, head, payload, c)
	}
	return err
}

// open implements protocol.
func (u *UDP) open(o origin) (*hostSocket, error) {
	// Without UDP_GRO (before Linux 5.0) datagrams come one by one.
	return openSocket(&u.cfg, o, unix.IPPROTO_UDP, option{unix.IPPROTO_UDP, unix.UDP_GRO})
}

// receive implements protocol.
func (u *UDP) receive(mp *mapping, msg socket.Message) {
	p, source, ok := u.inbound(mp, msg.From.AddrPort())
	if !ok {
		u.Stats.Filtered.Add(1)
		return
	}
	if p != nil {
		u.touch(p)
		p.pending.Add(-1)
		p.flow.ToInitiator.Add(int64(len(msg.Payload)))
	}
	if err := u.cfg.Guest.SendUDP(source, mp.guest, msg.Payload, msg.Segment()); err != nil {
		u.Stats.Undelivered.Add(1)
	}
}

// original implements protocol.
func (u *UDP) original(p *peer, quoted []byte) []byte {
	return udpOriginal(p.mapping.guest, p.destination, unpackHeader(p.sent.Load()), quoted)
}

// idle implements protocol.
func (u *UDP) idle(destination netip.AddrPort) (idle, answered time.Duration) {
	if destination.Port() == dnsPort {
		return u.dnsIdleTime, min(u.dnsIdleTime, answeredIdle)
	}
	return u.idleTime, u.idleTime
}
