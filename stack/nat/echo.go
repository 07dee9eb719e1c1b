package nat

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/policy"

	"golang.org/x/sys/unix"
)

// defaultEchoIdle is how long an echo flow lives without a message either way.
// RFC 5508 REQ-2: not less than 60 seconds.
const defaultEchoIdle = time.Minute

// An EchoConfig says what an Echo works with.
type EchoConfig struct {
	Config

	// Idle is how long a flow lives without traffic; 0 means 1 minute. It is
	// rounded up to seconds.
	Idle time.Duration
}

// An Echo carries the guest's echo requests to the host and the replies back,
// through ping sockets. Handle may be called from several goroutines.
type Echo struct {
	mapper
	idleTime time.Duration

	// packetID numbers the replies for IPv4, which may need fragments.
	packetID atomic.Uint32
}

// NewEcho returns an Echo whose Run is to be called once: it releases what the
// Echo takes.
func NewEcho(cfg EchoConfig) (*Echo, error) {
	e := &Echo{idleTime: cfg.Idle}
	if e.idleTime <= 0 {
		e.idleTime = defaultEchoIdle
	}
	if err := e.init(cfg.Config, e, flow.ICMP, policy.ICMP); err != nil {
		return nil, err
	}
	return e, nil
}

// PingAllowed returns nil if the host lets this process open ping sockets, of
// IPv4 at least. Otherwise the guest's echo requests are answered
// "administratively prohibited". The setting is net.ipv4.ping_group_range, for
// both families.
func PingAllowed() error {
	s, err := socket.New(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	s.Release()
	return nil
}

// Run is UDP.Run for echo.
func (e *Echo) Run(ctx context.Context) error { return e.run(ctx) }

// Handle sends an echo request of the guest's on its way. It does not block
// and keeps nothing of r.
func (e *Echo) Handle(r stack.Echo) {
	if e.expires(r.TTL, r.Destination, r.Header) {
		return
	}
	p := e.acquire(pair{netip.AddrPortFrom(r.Source, r.ID), netip.AddrPortFrom(r.Destination, r.ID)}, r.Header)
	if p == nil {
		return
	}
	s := p.mapping.socket
	defer s.Release()
	p.remember(header{uint16(len(r.Payload)), r.TTL, r.TOS})
	s.setDontFragment(dontFragment(r.Header, icmpHeaderLen+len(r.Payload)))
	var c socket.Control
	p.addHeader(&c, r.TTL, r.TOS)
	// The kernel puts in the checksum, and its own identifier.
	request := uint8(icmp4Echo)
	if s.v6 {
		request = icmp6Echo
	}
	var head [icmpHeaderLen]byte
	if err := p.send(appendEcho(head[:0], request, r.ID, r.Seq), r.Payload, &c); err != nil {
		e.refuse(err, r.Header)
		return
	}
	p.flow.ToTarget.Add(int64(len(r.Payload)))
}

// open implements protocol.
func (e *Echo) open(o origin) (*hostSocket, error) {
	// Without the option the guest sees replies from nearer than they came.
	if o.guest.Addr().Is6() {
		return openSocket(&e.cfg, o, unix.IPPROTO_ICMPV6, option{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT})
	}
	return openSocket(&e.cfg, o, unix.IPPROTO_ICMP, option{unix.IPPROTO_IP, unix.IP_RECVTTL})
}

// receive implements protocol. The kernel has matched identifier and type.
func (e *Echo) receive(mp *mapping, msg socket.Message) {
	p, _, _ := e.inbound(mp, msg.From.AddrPort())
	if p == nil || len(msg.Payload) < icmpHeaderLen {
		e.Stats.Filtered.Add(1)
		return
	}
	e.touch(p)
	p.flow.ToInitiator.Add(int64(len(msg.Payload) - icmpHeaderLen))
	ttl := msg.Integer(unix.IPPROTO_IP, unix.IP_TTL)
	if mp.socket.v6 {
		ttl = msg.Integer(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT)
	}
	h := ipHeader{
		source:      p.destination.Addr(),
		destination: mp.guest.Addr(),
		ttl:         uint8(max(ttl-1, 1)), // one hop more; at least what crosses one link
		id:          uint16(e.packetID.Add(1))%0xffff + 1,
	}
	if err := e.cfg.Guest.SendPacket(echoReply(h, mp.guest.Port(), msg.Payload)); err != nil {
		e.Stats.Undelivered.Add(1)
	}
}

// original implements protocol.
func (e *Echo) original(p *peer, quoted []byte) []byte {
	return echoOriginal(p.mapping.guest, p.destination, unpackHeader(p.sent.Load()), quoted)
}

// idle implements protocol.
func (e *Echo) idle(netip.AddrPort) (idle, answered time.Duration) {
	return e.idleTime, e.idleTime
}
