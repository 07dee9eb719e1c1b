package engine

import (
	"net/netip"
	"slices"
	"time"

	"taproot/internal/plan"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/tap"
)

// A spec is all that the engine is told at its start. It comes with the TAP
// device's descriptor, and with that of the capture if there is one.
type spec struct {
	Features tap.Features
	Plan     plan.Plan

	HostLoopback, AllowHost policy.Ports
	AllowLinkLocal          bool
	Maps                    []policy.Map
	Denied                  nat.ErrorKind
	Bind                    nat.Bind
	Without                 Without
	Sandbox                 SandboxMode
	Limits                  LimitSettings
	DNS                     DNS // without Servers, which are in Host
	HostAt                  []netip.Addr
	Announce                Announce

	NoDevice bool // nothing but ports between loopbacks
	Capture  bool // whether there is one
	Divert   bool // the first message with Divert follows
	Verbose  bool // debug log to stderr
	Waits    bool // packets do not move before message.Go
	Stats    time.Duration

	Host hostState
}

// newSpec returns what the engine is told, without the device's features and
// the host's state.
func newSpec(p *plan.Plan, cfg *Config) *spec {
	return &spec{
		Plan:         *p,
		HostLoopback: cfg.HostLoopback, AllowHost: cfg.AllowHost, AllowLinkLocal: cfg.AllowLinkLocal,
		Maps: cfg.Maps, Denied: cfg.Denied, Bind: cfg.Bind, Without: cfg.Without, Sandbox: cfg.Sandbox.Mode, Limits: cfg.Limits,
		DNS:    DNS{Off: cfg.DNS.Off, Ports: cfg.DNS.Ports},
		HostAt: cfg.HostAt, Announce: cfg.Announce,
		Capture: cfg.Capture != nil, Stats: cfg.Stats,
	}
}

// own are the addresses where the stack itself answers.
func (s *spec) own() []netip.Addr {
	var list []netip.Addr
	for _, f := range s.Plan.Families() {
		if !f.Foreign {
			list = append(list, f.Gateway)
		}
		list = append(list, f.Resolver)
	}
	return valid(list...)
}

// resolvers returns where guests are told to find DNS, of one family.
func (s *spec) resolvers(h *hostState, f *plan.Family, v4 bool) []netip.Addr {
	list := s.Announce.Resolvers
	switch {
	case !s.Announce.DNS:
		return nil
	case len(list) == 0 && f.Resolver.IsValid() && !s.DNS.Off:
		list = []netip.Addr{f.Resolver}
	case len(list) == 0:
		for _, server := range h.Servers {
			list = append(list, server.Addr())
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool {
		return a.Is4() != v4 || a.IsLoopback() || a.Zone() != ""
	})
}

// search returns the search domains that guests are told of.
func (s *spec) search(h *hostState) []string {
	switch {
	case !s.Announce.Search:
		return nil
	case len(s.Announce.Domains) > 0:
		return s.Announce.Domains
	}
	return h.Search
}

// maps are the addresses that mean others on the host, as it and the guest's
// network are now.
func (s *spec) maps(h *hostState, p *plan.Plan) []policy.Map {
	list := slices.Clone(s.Maps)
	for _, f := range p.Families() {
		if f.Gateway.IsValid() && !f.Foreign && s.HostLoopback != (policy.Ports{}) {
			list = append(list, policy.Map{Guest: f.Gateway, Host: loopbackFor(f.Gateway), Ports: s.HostLoopback})
		}
		if server, ok := h.server(f.Resolver); ok && s.opensResolver(server) {
			list = append(list, policy.Map{Guest: f.Resolver, Host: server, Ports: s.DNS.Ports})
		}
		for _, a := range s.HostAt {
			if f.Host.IsValid() && f.Host.Is4() == a.Is4() {
				list = append(list, policy.Map{Guest: a, Host: f.Host, Ports: policy.AllPorts()})
			}
		}
	}
	return list
}

// opensResolver tells whether ports of the resolver's address other than 53
// lead to a server. All ports of one on the host's loopback would be all of the
// loopback, which must be open itself for that.
func (s *spec) opensResolver(server netip.Addr) bool {
	if server.IsLoopback() && s.DNS.Ports.All() {
		return s.HostLoopback.All()
	}
	return s.DNS.Ports != (policy.Ports{})
}

// server returns the first name server of the resolver's family.
func (h *hostState) server(resolver netip.Addr) (netip.Addr, bool) {
	for _, s := range h.Servers {
		if resolver.IsValid() && s.Addr().Is4() == resolver.Is4() {
			return s.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// loopbackFor returns the host's loopback address of a's family.
func loopbackFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
