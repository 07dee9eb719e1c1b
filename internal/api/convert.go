package api

import (
	"errors"
	"fmt"
	"net/netip"

	"taproot/internal/engine"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// The directions of flows and rules.
const (
	inbound  = "inbound"
	outbound = "outbound"
)

// ruleOf returns how a rule is shown. Its counters are those of stats, which is
// nil if they are not known.
func ruleOf(e *portfwd.Entry, stats map[int]flow.RuleStats) Rule {
	r := Rule{
		ID: e.ID, RuleSpec: SpecOf(&e.Rule), Spec: e.Spec(),
		By: e.By, State: e.State.String(), Error: e.Err, Bound: e.Bound,
	}
	if e.Follows {
		r.Follows, r.Ports = e.Allow.String(), 0
	}
	if stats != nil && !e.Follows {
		s := stats[e.ID]
		r.Counters = &Counters{s.Live, s.Opened, s.Bytes.ToTarget, s.Bytes.ToInitiator}
	}
	return r
}

func rulesOf(entries []portfwd.Entry, stats map[int]flow.RuleStats) []Rule {
	list := make([]Rule, len(entries)) // not null
	for i := range entries {
		list[i] = ruleOf(&entries[i], stats)
	}
	return list
}

// SpecOf returns what a rule says.
func SpecOf(r *portfwd.Rule) RuleSpec {
	return RuleSpec{
		Direction: r.Direction.String(), Proto: r.Proto.String(), Ports: r.Count(),
		Listen: End{r.Listen.Addr(), r.Listen.Port(), r.ListenUnix},
		Target: End{r.Target.Addr(), r.Target.Port(), r.TargetUnix},
		Local:  r.Local, Device: r.Device, Source: r.Source.String(), Proxy: r.Proxy,
		Loopback: r.Loopback, Freebind: r.Freebind, Wait: r.Wait, Weak: r.Weak,
	}
}

// Rule returns the rule that is meant. Directions and protocols that there are
// not are errors; for the rest, the table that it is added to checks it.
func (s *RuleSpec) Rule() (portfwd.Rule, error) {
	r := portfwd.Rule{
		Listen: netip.AddrPortFrom(s.Listen.Address, s.Listen.Port), ListenUnix: s.Listen.Unix,
		Target: netip.AddrPortFrom(s.Target.Address, s.Target.Port), TargetUnix: s.Target.Unix,
		Local: s.Local, Device: s.Device, Ports: s.Ports, Proxy: s.Proxy,
		Loopback: s.Loopback, Freebind: s.Freebind, Wait: s.Wait, Weak: s.Weak,
	}
	switch s.Direction {
	case "", inbound:
	case outbound:
		r.Direction = portfwd.Outbound
	default:
		return r, fmt.Errorf("direction %q: want %s or %s", s.Direction, inbound, outbound)
	}
	switch s.Proto {
	case "", flow.TCP.String():
	case flow.UDP.String():
		r.Proto = flow.UDP
	default:
		return r, fmt.Errorf("proto %q: want tcp or udp", s.Proto)
	}
	if s.Source == "" {
		return r, nil
	}
	var err error
	r.Source, err = portfwd.ParseSourceMode(s.Source)
	return r, err
}

// AutoSpecOf returns what an automatic rule says.
func AutoSpecOf(c *portfwd.AutoConfig) RuleSpec {
	r := c.Rule(0)
	s := SpecOf(&r)
	s.Ports, s.Follows = 0, c.Allow.String()
	return s
}

// errFollows says that a rule with Follows says too much.
var errFollows = errors.New("follows: only together with direction, proto, address of listen, local, device, source, loopback and freebind")

// Auto returns the automatic rule that is meant by one with Follows.
func (s *RuleSpec) Auto() (portfwd.AutoConfig, error) {
	r, err := s.Rule()
	if err != nil {
		return portfwd.AutoConfig{}, err
	}
	c := portfwd.AutoConfig{
		Direction: r.Direction, Proto: r.Proto, Listen: r.Listen.Addr(),
		Local: r.Local, Device: r.Device, Source: r.Source, Loopback: r.Loopback, Freebind: r.Freebind,
	}
	if r != c.Rule(0) {
		return portfwd.AutoConfig{}, errFollows
	}
	if err := c.Allow.UnmarshalText([]byte(s.Follows)); err != nil {
		return portfwd.AutoConfig{}, fmt.Errorf("follows: %w", err)
	}
	return c, nil
}

// flowOf returns how a flow is shown.
func flowOf(f *flow.Info) Flow {
	direction := outbound
	if f.Inbound {
		direction = inbound
	}
	return Flow{
		ID: f.ID, Proto: f.Proto.String(), Direction: direction, Way: f.Way.String(),
		Initiator: f.Initiator, Target: f.Target, Rule: f.Rule, Opened: f.Opened,
		BytesToTarget: f.ToTarget, BytesToInitiator: f.ToInitiator,
	}
}

// infoOf returns how an instance is shown; what the instance does not know is
// left out.
func infoOf(st *engine.Status) Info {
	return Info{
		Engine: Engine{string(st.Engine), st.Since, st.Restarts, st.Binary, st.RolledBack, st.Why},
		Guest: Guest{
			PID: st.Process, NetNS: st.Path, NetNSInode: st.NetNS,
			Interface: st.Interface, MTU: st.MTU, Offload: st.Offload,
			Addresses: orEmpty(st.Addresses), Gateways: orEmpty(st.Gateways), Resolvers: orEmpty(st.Resolvers),
		},
		Shortcut: Shortcut{st.Shortcut, st.Without},
		Sandbox:  sandboxOf(st),
	}
}

// sandboxOf returns how the engine's sandbox is shown.
func sandboxOf(st *engine.Status) Sandbox {
	s := Sandbox{Mode: st.Sandbox.String(), Steps: make([]SandboxStep, len(st.SandboxSteps))}
	for i, step := range st.SandboxSteps {
		s.Steps[i] = SandboxStep(step)
	}
	return s
}

// orEmpty makes a list that JSON does not write as null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// statsOf returns how statistics are shown.
func statsOf(st *engine.Statistics) Stats {
	s := Stats{
		Since: st.Since, Shortcut: st.Flows.Shortcut,
		Protocols: make(map[string]ProtoStats), Counters: make(map[string]uint64, len(st.Counters)),
		Limits: make(map[string]Limit, len(st.Limits)),
	}
	for _, p := range []flow.Proto{flow.TCP, flow.UDP, flow.ICMP} {
		proto, bytes := st.Flows.Proto[p], st.Flows.Bytes[p]
		s.Protocols[p.String()] = ProtoStats{
			Counters: Counters{proto.Live, proto.Opened, bytes.ToTarget, bytes.ToInitiator},
			Peak:     proto.Peak, Limit: st.Flows.Limit[p], Refused: proto.Refused,
		}
	}
	for _, c := range st.Counters {
		s.Counters[c.Name] = c.Value
	}
	for _, l := range st.Limits {
		s.Limits[l.Name] = Limit{l.Now, l.Max, l.Refused}
	}
	return s
}
