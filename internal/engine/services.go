package engine

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"taproot/internal/plan"
	"taproot/stack"
	"taproot/stack/dhcp"
	"taproot/stack/dns"
	"taproot/stack/ndp"
)

// Ports of what the gateway itself serves.
const (
	dnsPort          = 53
	dhcpServerPort   = 67 // RFC 2131 §4.1
	dhcpv6ServerPort = 547
	dhcpv6ClientPort = 546 // RFC 8415 §7.2
)

// maxDNSConns is how many DNS connections the guest may hold: a stub resolver
// needs one, and idle ones are closed after seconds.
const maxDNSConns = 64

// allNodes is where router advertisements go (RFC 4861 §4.2).
var allNodes = netip.MustParseAddr("ff02::1")

// addServices makes what the gateway itself answers.
func (g *gateway) addServices() (err error) {
	g.dns, err = dns.New(dns.Config{Hosts: map[string][]netip.Addr{hostName: g.spec.hostNames()}, Control: g.spec.Bind.Control,
		MaxDatagrams: int(g.limits.dnsDatagrams), MaxMessages: int(g.limits.dnsMessages), HoldBack: true, Log: g.log})
	if err != nil {
		return err
	}
	g.host.Store(&g.spec.Host)
	g.setDHCP(&g.spec.Plan)
	g.setHost(g.spec.Host)
	return nil
}

// hostNames are the addresses by which the guest reaches the host.
func (s *spec) hostNames() []netip.Addr {
	list := slices.Clone(s.HostAt)
	for _, f := range s.Plan.Families() {
		if !f.Foreign {
			list = append(list, f.Gateway)
		}
	}
	return valid(list...)
}

// setDHCP makes the DHCP server of a plan.
func (g *gateway) setDHCP(p *plan.Plan) {
	s, h := g.spec, g.host.Load()
	g.dhcp.Store(dhcp.New(dhcp.Config{
		Guest4: p.V4.First(), Gateway4: p.V4.Gateway, Resolvers4: s.resolvers(h, &p.V4, true),
		Guest6: p.V6.First().Addr(), Resolvers6: s.resolvers(h, &p.V6, false),
		Pool4: p.V4.Pool, Pool4Size: p.V4.PoolSize,
		MTU: p.MTU, ServerMAC: p.GatewayMAC, Search: s.search(h),
		Hostname: s.Announce.Hostname, FQDN: s.Announce.FQDN,
	}))
}

// setHost takes over what is new about the host.
func (g *gateway) setHost(h hostState) {
	g.rules.SetHostAddrs(h.Addresses)
	g.ports.SetHostAddrs(h.Addresses)
	if err := g.rules.SetMaps(g.spec.maps(&h, g.plan.Load())); err != nil {
		g.log.Warn("maps of addresses", "error", err)
	}
	g.dns.SetServers(h.Servers)
	g.dhcp.Load().SetSearch(g.spec.search(&h))
	g.host.Store(&h)
}

// setPlan takes over the guest's new addresses.
func (g *gateway) setPlan(p *plan.Plan) {
	own, sources := guests(p)
	if err := g.rules.SetGuests(own, sources); err != nil {
		g.log.Warn("guest's addresses", "error", err)
		return
	}
	g.plan.Store(p)
	if err := g.rules.SetMaps(g.spec.maps(g.host.Load(), p)); err != nil {
		g.log.Warn("maps of addresses", "error", err)
	}
	g.ports.SetAddresses(portAddresses(p))
	g.setDHCP(p)
	g.log.Debug("guest's addresses changed", "addresses", own)
}

// valid returns those of list that are addresses.
func valid[T interface{ IsValid() bool }](list ...T) []T {
	return slices.DeleteFunc(list, func(a T) bool { return !a.IsValid() })
}

// isResolver tells whether a guest's destination is the gateway's DNS.
func (g *gateway) isResolver(a netip.AddrPort) bool {
	return !g.spec.DNS.Off && a.Port() == dnsPort && (a.Addr() == g.spec.Plan.V4.Resolver || a.Addr() == g.spec.Plan.V6.Resolver)
}

// handleTCP serves DNS itself and passes the rest on.
func (g *gateway) handleTCP(r *stack.Request) {
	if r.Source.Addr().IsUnspecified() {
		r.Drop()
		return
	}
	if !g.isResolver(r.Destination) {
		g.tcp.Handle(r)
		return
	}
	g.services.Add(1)
	defer g.services.Done()
	g.serveDNSConn(r)
}

// serveDNSConn serves a connection to the resolver, of which dnsConns may be.
func (g *gateway) serveDNSConn(r *stack.Request) {
	select {
	case g.dnsConns <- struct{}{}:
		defer func() { <-g.dnsConns }()
	default:
		g.dnsRefused.Add(1)
		r.Refuse()
		return
	}
	c, err := r.Accept()
	if err != nil {
		return
	}
	conn := c.NetConn()
	defer conn.Close()
	if err := g.dns.ServeConn(g.ctx, conn); err != nil {
		g.log.Debug("DNS over TCP", "initiator", r.Source, "error", err)
	}
}

// split hands a superframe on as the datagrams that it is made of.
func (g *gateway) split(d stack.Datagram, to func(stack.Datagram)) {
	size := d.Segment
	if size <= 0 {
		size = max(len(d.Payload), 1)
	}
	whole := d.Payload
	d.Segment = 0
	for d.Payload = range slices.Chunk(whole, size) {
		to(d)
	}
}

// handleUDP serves DHCP and DNS itself and passes the rest on.
func (g *gateway) handleUDP(d stack.Datagram) {
	switch {
	case d.Destination.Port() == dhcpServerPort && d.Destination.Addr().Is4() && g.toGateway(d.Destination.Addr()):
		if !g.spec.Without.DHCP {
			g.split(d, g.serveDHCP)
		}
	case d.Destination.Port() == dhcpv6ServerPort && g.toGateway(d.Destination.Addr()):
		if !g.spec.Without.DHCPv6 {
			g.split(d, g.serveDHCPv6)
		}
	case d.Source.Addr().IsUnspecified(), d.Destination.Addr().IsMulticast():
		// nobody to answer
	case g.isResolver(d.Destination):
		g.split(d, g.serveDNS)
	case !g.spec.Without.UDP:
		g.udp.Handle(d)
	}
}

// toGateway tells whether a destination means the gateway among others.
func (g *gateway) toGateway(a netip.Addr) bool {
	p := g.plan.Load()
	return a == p.V4.Gateway || a == p.V6.Gateway || a == g.stack.LinkLocal() ||
		a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (g *gateway) serveDHCP(d stack.Datagram) {
	reply, to, ok := g.dhcp.Load().Reply4(d.Payload)
	if !ok {
		return
	}
	g.answer(netip.AddrPortFrom(g.plan.Load().V4.Gateway, dhcpServerPort), to, reply)
}

func (g *gateway) serveDHCPv6(d stack.Datagram) {
	reply, ok := g.dhcp.Load().Reply6(d.Payload, d.Source.Addr())
	if !ok {
		return
	}
	g.answer(netip.AddrPortFrom(g.stack.LinkLocal(), dhcpv6ServerPort), netip.AddrPortFrom(d.Source.Addr(), dhcpv6ClientPort), reply)
}

// serveDNS forwards a query; the forwarder bounds how many there are.
func (g *gateway) serveDNS(d stack.Datagram) {
	server, client := d.Destination, d.Source
	err := g.dns.Datagram(d.Payload, func(reply []byte) { g.answer(server, client, reply) })
	if err != nil {
		g.log.Debug("DNS over UDP", "initiator", client, "error", err)
	}
}

func (g *gateway) answer(source, destination netip.AddrPort, payload []byte) {
	if err := g.stack.SendUDP(source, destination, payload, 0); err != nil {
		g.log.Debug("answer of the gateway", "source", source, "destination", destination, "error", err)
	}
}

// handleEcho passes echo requests on.
func (g *gateway) handleEcho(e stack.Echo) {
	if !e.Source.IsUnspecified() {
		g.echo.Handle(e)
	}
}

// Advertisements are good for half an hour and sent every ten minutes, so that
// two may be lost (RFC 4861 §6.2.1: at most every 30 minutes), besides one for
// each solicitation.
const advertiseEvery = 10 * time.Minute

// advertiseUntil advertises the gateway as router until ctx ends.
func (g *gateway) advertiseUntil(ctx context.Context) error {
	ticker := time.NewTicker(advertiseEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			g.advertise()
		case <-ctx.Done():
			return nil
		}
	}
}

// advertise sends a router advertisement to all nodes.
func (g *gateway) advertise() {
	p := g.plan.Load()
	if !p.V6.On() || g.spec.Without.RA {
		return
	}
	h := g.host.Load()
	b, err := ndp.Advertisement(ndp.Config{
		Prefix: p.V6.First().Masked(), MTU: p.MTU, Autonomous: p.V6.Advertised || p.V6.Autonomous, DHCP: !p.V6.Advertised, Resolvers: g.spec.resolvers(h, &p.V6, false), Search: g.spec.search(h), RouterMAC: p.GatewayMAC,
	})
	if err == nil {
		err = g.stack.SendICMP6(g.stack.LinkLocal(), allNodes, b)
	}
	if err != nil { // the guest's device is down, for instance
		g.log.Debug("router advertisement", "error", err)
	}
}
