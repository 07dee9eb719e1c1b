package nat

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"taproot/internal/socket"
	"taproot/stack/flow"
	"taproot/stack/policy"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// tickLength is how exact idle times are: a flow lives up to this much longer.
const tickLength = time.Second

const (
	// ErrorsPerSecond, by default, and errorBurst limit the errors that we make ourselves,
	// as RFC 1812 section 4.3.2.8 asks. They are what Linux uses
	// (icmp_msgs_per_sec, icmp_msgs_burst).
	ErrorsPerSecond = 1000
	errorBurst      = 50
)

var (
	errClosed  = errors.New("closed")
	errSpoofed = errors.New("source address is not the guest's")
)

// A protocol is what UDP and echo do differently with a mapper.
type protocol interface {
	// open returns a new host socket for the guest's end. It does not block.
	open(o origin) (*hostSocket, error)

	// receive passes a message of the host socket to the guest.
	receive(m *mapping, msg socket.Message)

	// original rebuilds the start of the packet that the guest sent to p last.
	// quoted is what an error said of its payload.
	original(p *peer, quoted []byte) []byte

	// idle returns how long a flow to the destination lives without traffic;
	// answered is for when as much has come back as was sent.
	idle(destination netip.AddrPort) (idle, answered time.Duration)
}

// A mapper owns the mappings of one protocol: host sockets, one for each
// address and port of the guest, and the peers that each of them talks to. The
// package text has the picture.
//
// A peer is looked up under mu, and its socket is used after mu is free; the
// reference keeps it open so long.
type mapper struct {
	Stats Stats // promoted to UDP and Echo

	cfg      Config
	protocol protocol
	proto    flow.Proto
	check    policy.Proto

	poller    *socket.Poller
	limiter   *rate.Limiter // of errors
	evictions *rate.Limiter
	now       atomic.Uint32 // ticks since the start
	lastID    atomic.Uint64

	mu sync.RWMutex
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	mappings map[origin]*mapping
	// +checklocks:mu
	ids map[uint64]*mapping // by what the poller calls them
	// +checklocks:mu
	peers map[pair]*peer
}

// A pair names a flow of a mapper, as the guest sees it.
type pair struct{ guest, destination netip.AddrPort }

// An origin is what a mapping is for: an address and port of the guest. Where
// host sockets are bound, a second one is for the host's loopback.
type origin struct {
	guest netip.AddrPort // for echo, the port is the guest's identifier
	local bool           // for loopback only, because others are bound
}

// A mapping is one host socket.
type mapping struct {
	origin
	owner  *mapper
	id     uint64
	socket *hostSocket

	// last is the peer that was sent to last. The kernel reports the size of a
	// datagram that it refused without saying which port it was for.
	last atomic.Pointer[peer]

	// The maps are guarded by mapper.mu. peers is by the host's address of the
	// peer; hosts counts the peers at an address that is the same on both
	// sides.
	peers map[netip.AddrPort]*peer
	hosts map[netip.Addr]int
}

// A peer is one flow of a mapping.
type peer struct {
	mapping     *mapping
	destination netip.AddrPort // as the guest sees it
	target      netip.AddrPort // on the host
	to          socket.Address // of target
	flow        *flow.Flow
	gone        bool          // not in the tables any more; guarded by mapper.mu
	idle        uint32        // in ticks
	answered    uint32        // the same when nothing is pending
	seen        atomic.Uint32 // tick of the last message either way
	sent        atomic.Uint32 // the last header sent, packed
	pending     atomic.Int32  // messages sent less messages received
}

// pair returns what the peer is called in the table of peers.
func (p *peer) pair() pair { return pair{p.mapping.guest, p.destination} }

// A header is what an error needs to know of a packet of the guest's that is
// gone.
type header struct {
	length   uint16 // of the payload, in bytes
	ttl, tos uint8
}

func (h header) pack() uint32 { return uint32(h.length)<<16 | uint32(h.ttl)<<8 | uint32(h.tos) }

func unpackHeader(v uint32) header { return header{uint16(v >> 16), uint8(v >> 8), uint8(v)} }

// init makes the mapper of p, which is UDP or Echo.
func (m *mapper) init(cfg Config, p protocol, proto flow.Proto, check policy.Proto) error {
	if err := cfg.Complete(); err != nil {
		return err
	}
	m.cfg, m.protocol, m.proto, m.check = cfg, p, proto, check
	m.evictions = newEvictions()
	m.limiter = rate.NewLimiter(rate.Limit(cfg.ErrorsPerSecond), errorBurst)
	m.mu.Lock() // nobody else has m yet, but checklocks cannot know
	defer m.mu.Unlock()
	m.mappings = make(map[origin]*mapping)
	m.ids = make(map[uint64]*mapping)
	m.peers = make(map[pair]*peer)
	var err error
	m.poller, err = socket.NewPoller()
	return err
}

// acquire returns the peer of the pair with a reference to its socket, which
// the caller releases. It opens the flow if there is none. If that is not to
// be it tells the guest, where there is something to tell, and returns nil.
// original is the guest's packet.
func (m *mapper) acquire(key pair, original []byte) *peer {
	// The second turn is for a peer that expired between look-up and use.
	for range 2 {
		m.mu.RLock()
		p := m.peers[key]
		m.mu.RUnlock()
		if p == nil {
			var err error
			if p, err = m.openPeer(key); err != nil {
				m.refuse(err, original)
				return nil
			}
		}
		if p.mapping.socket.Acquire() {
			m.touch(p)
			return p
		}
	}
	m.Stats.Dropped.Add(1)
	return nil
}

// touch marks the peer as used. It writes only once per tick, for the sake of
// the cache line.
func (m *mapper) touch(p *peer) {
	if now := m.now.Load(); p.seen.Load() != now {
		p.seen.Store(now)
	}
}

// openPeer opens a flow, and a mapping where the guest's end has none.
func (m *mapper) openPeer(key pair) (*peer, error) {
	if !m.cfg.Rules.Source(key.guest.Addr()) {
		return nil, errSpoofed
	}
	asked := key.destination
	if m.check == policy.ICMP {
		asked = netip.AddrPortFrom(asked.Addr(), 0)
	}
	target, err := m.cfg.Rules.Check(m.check, asked)
	if err != nil {
		return nil, err
	}
	f, err := m.openFlow(flow.Key{Proto: m.proto, Initiator: key.guest, Target: key.destination})
	if err != nil {
		return nil, err
	}
	idle, answered := m.protocol.idle(key.destination)
	p := &peer{
		destination: key.destination,
		target:      target,
		to:          socket.NewAddress(target),
		flow:        f,
		idle:        ticks(idle),
		answered:    ticks(answered),
	}
	p.seen.Store(m.now.Load())
	attached, err := m.attach(p, m.originOf(key.guest, target.Addr()))
	if attached != p {
		f.Close()
		return attached, err
	}
	f.SetKiller(p)
	if ctx := context.Background(); m.cfg.Log.Enabled(ctx, slog.LevelDebug) { // attributes are allocated
		m.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "flow opened", slog.Any("proto", m.proto),
			slog.Any("initiator", key.guest), slog.Any("target", key.destination))
	}
	return p, nil
}

// originOf returns the origin whose mapping talks to target.
func (m *mapper) originOf(guest netip.AddrPort, target netip.Addr) origin {
	return origin{guest, target.IsLoopback() && m.cfg.Bind.isSet(target.Is6())}
}

// ticks rounds up.
func ticks(d time.Duration) uint32 { return uint32((d + tickLength - 1) / tickLength) }

// attach gives p to the mapping of the guest's end, which it makes if needed,
// and returns it, or the peer of the same pair that another goroutine attached
// in the meantime.
func (m *mapper) attach(p *peer, o origin) (*peer, error) {
	m.mu.Lock()
	if mp := m.mappings[o]; mp != nil || m.closed {
		defer m.mu.Unlock()
		return m.attachLocked(p, mp)
	}
	m.mu.Unlock()

	s, err := m.protocol.open(o)
	if err != nil {
		return nil, err
	}
	// The poller may report the id before it means something; that is ignored.
	fresh := &mapping{origin: o, owner: m, id: m.lastID.Add(1), socket: s}
	if err := m.poller.Add(s.FD(), fresh.id); err != nil {
		s.Release()
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	mp := m.mappings[o]
	if mp != nil || m.closed { // somebody was faster
		defer s.Release()
	} else {
		mp = fresh
		mp.peers = make(map[netip.AddrPort]*peer)
		mp.hosts = make(map[netip.Addr]int)
		m.mappings[o], m.ids[mp.id] = mp, mp
	}
	return m.attachLocked(p, mp)
}

// attachLocked is attach where the mapping exists.
//
// +checklocks:m.mu
func (m *mapper) attachLocked(p *peer, mp *mapping) (*peer, error) {
	if m.closed {
		return nil, errClosed
	}
	p.mapping = mp
	if other := m.peers[p.pair()]; other != nil {
		return other, nil
	}
	mp.peers[p.target] = p
	if p.sameAddress() {
		mp.hosts[p.target.Addr()]++
	}
	m.peers[p.pair()] = p
	return p, nil
}

// sameAddress reports whether the guest knows the target by its own address,
// not by the gateway's.
func (p *peer) sameAddress() bool { return p.target.Addr() == p.destination.Addr() }

// inbound decides whether a message from source, an address of the host's
// side, may pass the mapping, and returns what the guest sees as its source.
// p is nil if source is an address that the guest has sent to, but another
// port: RFC 4787 REQ-8, address-dependent filtering.
func (m *mapper) inbound(mp *mapping, source netip.AddrPort) (p *peer, seen netip.AddrPort, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	// Most answers come from whom was sent to last, which needs no search.
	if p := mp.last.Load(); p != nil && p.target == source && !p.gone {
		return p, p.destination, true
	}
	if p := mp.peers[source]; p != nil {
		return p, p.destination, true
	}
	return nil, source, mp.hosts[source.Addr()] > 0
}

// refuse counts the reason why a packet of the guest's goes nowhere and tells
// the guest.
func (m *mapper) refuse(err error, original []byte) {
	kind, ok := kindOf(err)
	switch {
	case errors.Is(err, errSpoofed):
		m.Stats.Spoofed.Add(1)
	case errors.Is(err, flow.ErrFull), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		m.Stats.Full.Add(1)
		if !errors.Is(err, flow.ErrFull) {
			m.Stats.NoDescriptor.Add(1)
		}
	case errors.As(err, new(*policy.Denied)):
		m.Stats.Denied.Add(1)
		kind = m.cfg.Denied
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, errClosed):
		m.Stats.Dropped.Add(1)
	default:
		m.Stats.Failed.Add(1)
	}
	// The size that would have fitted comes through the error queue.
	if ok && kind != PacketTooBig {
		m.tell(kind, original)
	}
}

// tell sends the guest an error in the gateway's name.
func (m *mapper) tell(kind ErrorKind, original []byte) {
	if kind == Silent {
		return
	}
	if !m.limiter.Allow() {
		m.Stats.Suppressed.Add(1)
		return
	}
	gateway := m.cfg.Gateway4
	if len(original) > 0 && original[0]>>4 == 6 {
		gateway = m.cfg.Gateway6
	}
	m.sendError(icmpError(kind, original, gateway, 0))
}

func (m *mapper) sendError(packet []byte) {
	if packet == nil {
		return
	}
	if err := m.cfg.Guest.SendPacket(packet); err != nil {
		m.Stats.Undelivered.Add(1)
		return
	}
	m.Stats.Errors.Add(1)
}
