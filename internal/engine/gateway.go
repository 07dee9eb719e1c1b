package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"taproot/internal/plan"
	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/portfwd"
	"taproot/stack"
	"taproot/stack/dhcp"
	"taproot/stack/dns"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/stack/shortcut"
	"taproot/tap"
)

// A gateway is everything that stands between the device and the host.
type gateway struct {
	log        *slog.Logger
	spec       *spec
	rules      *policy.Rules
	stack      *stack.Stack
	flows      *flow.Table
	tcp        *nat.TCP
	shortcut   *shortcut.Shortcut // nil if there is none
	dialer     *shortcut.Dialer   // nil if there is none
	undiverted chan struct{}      // capacity 1: the shortcut does not work
	wire       *wire
	udp        *nat.UDP
	echo       *nat.Echo
	dns        *dns.Forwarder
	dhcp       atomic.Pointer[dhcp.Server]
	mover      *relay.Mover // of connections between two kernel sockets
	ports      *portfwd.Publisher
	host       atomic.Pointer[hostState]
	plan       atomic.Pointer[plan.Plan]

	sockets *guestSockets
	unix    *unixSockets
	missed  time.Time // when the supervisor was told last; follow's

	dnsConns   chan struct{} // as many as there are connections
	dnsRefused atomic.Uint64 // connections that were too many
	machine    machine
	limits     numbers

	orphans chan []portfwd.Connection // pages of them, see endOrphans

	inherits bool        // it waits for its turn, and may be given connections
	yields   atomic.Bool // it hands its connections over at the end
	leave    func()      // yields

	queries chan *query     // of the supervisor's
	limited chan flow.Proto // capacity 1: flows have met a limit

	// services are the gateway's own answers that are being worked out.
	services sync.WaitGroup

	restraint restraint       // of the guest's frames
	ctx       context.Context // ends with run
}

// hostName is the name of the gateway inside the guest.
const hostName = "host.taproot.internal"

// newGateway puts the parts together. Nothing moves yet.
func newGateway(st start, w *wire, log *slog.Logger) (*gateway, error) {
	g := &gateway{
		log: log, spec: st.spec, wire: w, machine: thisMachine(),
		orphans: make(chan []portfwd.Connection, maxOrphans/pageOrphans),
		queries: make(chan *query, maxQueries), limited: make(chan flow.Proto, 1),
	}
	g.limits = st.spec.Limits.on(g.machine)
	if n := st.spec.Limits["memory"]; n > 0 {
		debug.SetMemoryLimit(int64(n))
	}
	g.dnsConns = make(chan struct{}, g.limits.dnsConns)
	g.flows = flow.New(flow.Config{
		MaxTCP: int(g.limits.flowsTCP), MaxFrames: int(g.limits.flowsFrames),
		MaxUDP: int(g.limits.flowsUDP), MaxICMP: int(g.limits.flowsICMP), Full: g.flowsFull,
	})
	g.sockets = newGuestSockets(func(r socketRequest) error { return w.send(message{Need: &r}) })
	g.unix = newUnixSockets(func(r connectRequest) error { return w.send(message{Connect: &r}) })
	var err error
	if g.mover, err = relay.NewMover(relay.MoverConfig{Occupied: moreProcessors(), Descriptors: int(g.limits.descriptors)}); err != nil {
		return nil, err
	}
	if st.device == nil {
		return g, g.addPorts()
	}
	c := g.spec.policy()
	c.Published = g.leadsBack
	if g.rules, err = policy.New(c); err != nil {
		return nil, err
	}
	g.plan.Store(&g.spec.Plan)
	if err := g.addStack(st); err != nil {
		return nil, err
	}
	if err := g.addPorts(); err != nil {
		return nil, err
	}
	if err := g.addServices(); err != nil {
		return nil, err
	}
	return g, g.addNAT()
}

// addStack makes the stack over the device.
func (g *gateway) addStack(st start) error {
	p := &g.spec.Plan
	device, err := tap.New(st.device, g.spec.Features)
	if err != nil {
		return err
	}
	c := stack.Config{
		Device: device, MTU: p.MTU, MAC: p.GatewayMAC, LinkLocal: p.LinkLocal,
		Addresses: g.spec.own(), Source: g.rules.Source, Capture: st.capture, Memory: g.limits.tcpMemory,
		MaxPending: int(g.limits.dialsFrames), AsksPerSecond: int(g.limits.asks), MaxFragments: int(g.limits.fragments),
		Rest: g.rest,
	}
	if p.Neighbours {
		c.Neighbours = g.neighbour
	}
	g.stack, err = stack.New(c)
	return err
}

// policy returns the rules that the spec describes.
func (s *spec) policy() policy.Config {
	c := policy.Config{
		Resolver4: s.Plan.V4.Resolver, Resolver6: s.Plan.V6.Resolver,
		HostLoopback: s.HostLoopback, AllowHost: s.AllowHost, AllowLinkLocal: s.AllowLinkLocal,
		HostAddrs: s.Host.Addresses, Maps: s.maps(&s.Host, &s.Plan),
	}
	c.Guests, c.Sources = guests(&s.Plan)
	if !s.Plan.V4.Foreign {
		c.Gateway4 = s.Plan.V4.Gateway
	}
	if !s.Plan.V6.Foreign {
		c.Gateway6 = s.Plan.V6.Gateway
	}
	return c
}

// guests returns the guest's own addresses and the networks of further ones.
func guests(p *plan.Plan) (own, sources []netip.Prefix) {
	for _, f := range p.Families() {
		own, sources = append(own, f.Guest...), append(sources, f.Sources...)
	}
	return own, sources
}

// addPorts makes what serves published ports.
func (g *gateway) addPorts() (err error) {
	c := portfwd.PublisherConfig{
		GuestSocket: g.sockets.get,
		UnixSocket:  g.unix.connect,
		Mover:       g.mover,
		Flows:       g.flows,
		Descriptors: socket.Ceiling(g.limits.descriptors),
		Addresses:   portAddresses(&g.spec.Plan),
		HostAddrs:   g.spec.Host.Addresses,
		HoldBack:    true,
		Refused:     g.tellRefused,
		Log:         g.log,
	}
	if g.stack != nil {
		c.Dial, c.SendUDP = g.dialGuest, g.stack.SendUDP
	}
	g.ports, err = portfwd.NewPublisher(c)
	return err
}

// portAddresses returns who is who for published ports.
func portAddresses(p *plan.Plan) portfwd.Addresses {
	return portfwd.Addresses{
		Guest4: p.V4.First().Addr(), Guest6: p.V6.First().Addr(),
		Gateway4: p.V4.Gateway, Gateway6: p.V6.Gateway,
	}
}

// dialGuest connects to the guest through the stack.
func (g *gateway) dialGuest(ctx context.Context, source, target netip.AddrPort) (relay.Stream, error) {
	c, err := g.stack.Dial(ctx, source, target)
	if err != nil {
		return nil, err // not a nil *Conn in an interface
	}
	return c, nil
}

// neighbour tells whether the guest finds an address on its link although the
// stack does not have it.
func (g *gateway) neighbour(a netip.Addr) bool { return !g.rules.Own(a) }

// addNAT makes the ways out and sets the stack's handlers.
func (g *gateway) addNAT() error {
	s, cfg := g.spec, g.natConfig()
	var err error
	if g.tcp, err = nat.NewTCP(nat.TCPConfig{Config: cfg, Mover: g.mover, MaxPending: int(g.limits.dialsFrames)}); err != nil {
		return err
	}
	if g.udp, err = nat.NewUDP(nat.UDPConfig{Config: cfg, HoldBack: true, Published: g.published}); err != nil {
		return err
	}
	if g.echo, err = nat.NewEcho(nat.EchoConfig{Config: cfg}); err != nil {
		return err
	}
	if err := nat.PingAllowed(); err != nil {
		g.log.Debug("no echo outside", "error", err)
	}
	if !s.Without.TCP {
		g.stack.HandleTCP(g.handleTCP)
	}
	if !s.Without.ICMP {
		g.stack.HandleEcho(g.handleEcho)
	}
	g.stack.HandleUDP(g.handleUDP)
	g.stack.HandleRefusal(g.refused)
	g.stack.HandleIdle(g.flush)
	g.stack.HandleSolicitation(g.advertise)
	return nil
}

// published offers a datagram of the guest's to the published ports: it may be
// an answer.
func (g *gateway) published(d stack.Datagram) bool {
	return g.ports.HandleDatagram(d.Source, d.Destination, d.Payload, d.Segment)
}

// refused tells the published ports of a datagram that the guest has refused.
func (g *gateway) refused(r stack.Refusal) {
	g.ports.HandleRefusal(r.Source, r.Destination, r.Payload)
}

// flush sends what was held back of the guest's datagrams.
func (g *gateway) flush() {
	g.udp.Flush()
	g.ports.Flush()
	g.dns.Flush()
}

// stop ends run: after what the guest has sent until now, where that can be
// waited for.
func (g *gateway) stop(cancel context.CancelFunc) {
	if g.stack == nil || g.stack.Stop() != nil {
		cancel()
	}
}

// run moves packets until ctx ends, or the device is gone, which is the error.
func (g *gateway) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.ctx = ctx
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.reportUntil(ctx, os.Stderr, g.spec.Stats) })
	wg.Go(func() { _ = g.answerUntil(ctx) })
	wg.Go(func() { _ = g.tellLimits(ctx) })
	wg.Go(func() {
		if err := g.mover.Run(ctx); err != nil {
			g.log.Error("stopped", "part", "mover", "error", err)
		}
	})
	if g.stack == nil {
		err := g.ports.Run(ctx)
		cancel()
		wg.Wait()
		g.sockets.close()
		return err
	}
	parts := map[string]func(context.Context) error{"tcp": g.tcp.Run, "udp": g.udp.Run, "dns": g.dns.Run, "icmp": g.echo.Run, "ra": g.advertiseUntil, "ports": g.ports.Run, "orphans": g.probeOrphans}
	if g.shortcut != nil {
		parts["shortcut"], parts["doubts"] = g.shortcut.Run, g.tellUndiverted
	}
	if g.dialer != nil {
		parts["dialer"] = g.dialer.Run
	}
	for name, part := range parts {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				g.log.Error("stopped", "part", name, "error", err)
			}
		})
	}
	err := g.stack.Run(ctx)
	cancel()
	wg.Wait()
	g.services.Wait()
	g.sockets.close()
	return err
}

// follow does what the supervisor says until it is gone.
func (g *gateway) follow(w *wire) {
	for {
		m, files, err := g.next(w)
		if err != nil {
			return
		}
		g.do(w, m, files)
	}
}

// awaitTurn does what the supervisor says until packets are to move.
func (g *gateway) awaitTurn(w *wire) error {
	g.inherits = true
	defer func() { g.inherits = false }()
	for {
		m, files, err := g.next(w)
		if err != nil {
			return err
		}
		if m.Go {
			return nil
		}
		g.do(w, m, files)
	}
}

// do does what one message says. It owns files.
func (g *gateway) do(w *wire, m message, files []*os.File) {
	switch {
	case m.Publish != nil:
		g.publish(w, m.Publish, files)
		return
	case m.Sockets != nil:
		g.sockets.put(m.Sockets, files)
		return
	case m.Connected != nil:
		g.unix.put(m.Connected, files)
		return
	case m.Query != nil:
		g.ask(w, m.Query)
	case m.Orphans != nil && g.stack != nil:
		select {
		case g.orphans <- m.Orphans:
		default: // more than a supervisor of ours knows
		}
	case m.Yield && g.leave != nil:
		g.leave()
	case m.Ping:
		_ = w.send(message{Pong: true}) // the supervisor may be gone
	case m.Unpublish != 0:
		if g.ports.Remove(m.Unpublish) {
			g.endLeadingBack()
		}
		if m.EndFlows {
			g.ports.Kill(m.Unpublish)
		}
		g.flows.ForgetRule(m.Unpublish)
		_ = w.send(message{Closed: m.Unpublish}) // the supervisor may be gone
	case m.Pause != nil:
		g.ports.Pause(*m.Pause)
	case m.Resume != nil:
		g.ports.Resume(*m.Resume)
	case m.Host != nil && g.stack == nil:
		g.ports.SetHostAddrs(m.Host.Addresses)
	case m.Host != nil:
		g.setHost(*m.Host)
		g.log.Debug("host changed", "addresses", m.Host.Addresses, "servers", m.Host.Servers, "search", m.Host.Search)
	case m.Plan != nil:
		g.setPlan(m.Plan)
	case m.Divert != nil:
		g.divert(m.Divert)
	}
	closeAll(files)
}

// missedPause is how often the supervisor is told at most that sockets were
// missed: it brings all of them again, after republishPause.
const missedPause = republishPause / 2

// publish serves sockets. Those that did not arrive, or cannot be kept, because
// our table of descriptors is full, are asked for again.
func (g *gateway) publish(w *wire, listeners []portfwd.Listener, files []*os.File) {
	var first error
	lost, full := 0, false
	for i, l := range listeners {
		err := fmt.Errorf("serve rule %d: %w", l.Rule, syscall.EMFILE) // unix(7): lost on the way, and all after it
		if i < len(files) {
			err = g.ports.Add(l, files[i])
		}
		if err != nil {
			first = cmp.Or(first, err)
			lost, full = lost+1, full || errors.Is(err, syscall.EMFILE)
		}
	}
	closeAll(files[min(len(listeners), len(files)):])
	g.expectClients(listeners)
	if lost > 0 {
		g.log.Warn("ports not published", "sockets", lost, "error", first)
	}
	if full && time.Since(g.missed) > missedPause {
		g.missed = time.Now()
		_ = w.send(message{Missed: true}) // the supervisor may be gone
	}
}

// tellRefused has the supervisor look who listens in the guest.
func (g *gateway) tellRefused(id portfwd.SocketID) {
	_ = g.wire.send(message{Refused: &id}) // the supervisor may be gone
}
