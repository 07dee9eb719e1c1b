package pasta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/stack/policy"
)

// A publication is what one option publishes: rules for good, or what auto makes
// rules of.
type publication struct {
	option, text string
	rules        []portfwd.Rule
	auto         *portfwd.AutoConfig // nil if there are rules

	// weak is right with one port out of all rules, optional with none;
	// otherwise each must be there.
	weak, optional bool
}

// A side says what the rules of one port option have in common.
type side struct {
	direction portfwd.Direction
	proto     flow.Proto
}

// sides are what the port options stand for, by the indices of options.ports.
var sides = [4]side{
	tcpIn:  {portfwd.Inbound, flow.TCP},
	udpIn:  {portfwd.Inbound, flow.UDP},
	tcpOut: {portfwd.Outbound, flow.TCP},
	udpOut: {portfwd.Outbound, flow.UDP},
}

// publications returns what the port options publish for good. ephemeral are
// the ports that the kernel gives to clients.
func (o *options) publications(ephemeral portRange) []publication {
	var list []publication
	for i, specs := range o.ports {
		for _, s := range specs {
			list = append(list, o.publication(sides[i], s, ephemeral)...)
		}
	}
	for _, pair := range [2][2]int{{tcpIn, udpIn}, {tcpOut, udpOut}} {
		if len(o.ports[pair[1]]) == 0 {
			list = append(list, o.companions(sides[pair[1]], o.ports[pair[0]])...)
		}
	}
	return list
}

// publication returns what one specification publishes for good.
func (o *options) publication(on side, s portSpec, ephemeral portRange) (list []publication) {
	if s.none || s.auto {
		return nil
	}
	if rules := o.rules(on, s, s.named(), false); rules != nil {
		list = append(list, publication{option: s.option, text: s.text, rules: rules})
	}
	if rules := o.rules(on, s, s.others(ephemeral), true); rules != nil {
		list = append(list, publication{option: s.option, text: s.text, rules: rules, weak: true})
	}
	return list
}

// companions returns the UDP ports that come along with the TCP ports of specs,
// unless the user says which shall be: the same numbers, on all addresses and
// not translated.
func (o *options) companions(on side, specs []portSpec) []publication {
	var list []publication
	for _, s := range specs {
		if s.none || s.auto {
			continue
		}
		named := s.named()
		for i := range named {
			named[i] = portMap{portRange: named[i].portRange, toFirst: named[i].first}
		}
		if rules := o.rules(on, portSpec{}, named, true); rules != nil {
			list = append(list, publication{option: s.option, text: s.text, rules: rules, weak: true, optional: true})
		}
	}
	return list
}

// named returns the ports that are named one by one and not excluded.
func (s *portSpec) named() []portMap {
	var list []portMap
	for _, m := range s.maps {
		for _, r := range without([]portRange{m.portRange}, s.exclude) {
			list = append(list, portMap{r, m.to, m.toFirst + r.first - m.first})
		}
	}
	return list
}

// others returns the ports that "all" stands for.
func (s *portSpec) others(ephemeral portRange) []portMap {
	if !s.all {
		return nil
	}
	exclude := append(slices.Clone(s.exclude), ephemeral)
	for _, m := range s.maps {
		exclude = append(exclude, m.portRange)
	}
	var list []portMap
	for _, r := range without([]portRange{{1, maxPort}}, exclude) {
		list = append(list, portMap{r, s.target, r.first})
	}
	return list
}

const maxPort = 65535

// without returns the ports of list that are not in exclude.
func without(list, exclude []portRange) []portRange {
	var rest []portRange
	for first, last := range ports(list).Without(ports(exclude)).Ranges() {
		rest = append(rest, portRange{first, last})
	}
	return rest
}

// rules returns the rules for maps.
func (o *options) rules(on side, s portSpec, maps []portMap, weak bool) []portfwd.Rule {
	var list []portfwd.Rule
	for _, m := range maps {
		list = append(list, o.complete(portfwd.Rule{
			Direction: on.direction, Proto: on.proto,
			Listen: netip.AddrPortFrom(s.listen, m.first), Device: s.device,
			Ports:  int(m.last-m.first) + 1,
			Target: netip.AddrPortFrom(m.to, m.toFirst),
			Weak:   weak,
		}))
	}
	return list
}

// complete returns a rule with what the options say of all inbound ones.
func (o *options) complete(r portfwd.Rule) portfwd.Rule {
	if r.Direction == portfwd.Outbound {
		return r
	}
	r.Loopback = r.Loopback || r.TargetUnix == "" && o.loopback(r.Target.Addr())
	if r.ListenUnix == "" {
		r.Local = r.Local || o.local(r.Listen.Addr(), r.Device)
		r.Freebind = r.Freebind || o.freebind
	}
	return r
}

// loopback tells whether the host's loopback leads to the guest's, for a target
// that was given or not. Other clients never come there.
func (o *options) loopback(target netip.Addr) bool {
	if target.IsValid() {
		return target.IsLoopback()
	}
	return o.toLoopback || o.spliceOnly
}

// local tells whether what listens on an address and a device, or on none of
// them, listens on the host's loopback only. With --splice-only there is only one
// way into the guest, from loopback to loopback; then nobody listens for others.
func (o *options) local(listen netip.Addr, device string) bool {
	return o.spliceOnly && !listen.IsValid() && device == ""
}

// automaticPeriod is how often ports are listed. The original does it once a
// second, and for nobody who has not asked there is reason to do it often.
const automaticPeriod = 250 * time.Millisecond

// automatic returns which ports are published while somebody listens on them:
// those of the specifications with "auto", and all where there is none.
func (o *options) automatic(ephemeral portRange) []portfwd.AutoConfig {
	var list []portfwd.AutoConfig
	for i, specs := range o.ports {
		if len(specs) == 0 {
			specs = []portSpec{{auto: true}}
		}
		for _, s := range specs {
			if !s.auto {
				continue
			}
			s.exclude = append(slices.Clone(s.exclude), publishedBy(specs)...)
			list = append(list, o.follower(sides[i], s, ephemeral))
		}
	}
	return list
}

// follower returns what one specification with "auto" publishes.
func (o *options) follower(on side, s portSpec, ephemeral portRange) portfwd.AutoConfig {
	in := on.direction == portfwd.Inbound
	return portfwd.AutoConfig{
		Period:    automaticPeriod,
		Direction: on.direction, Proto: on.proto,
		Listen: s.listen, Device: s.device,
		Local:    in && o.local(s.listen, s.device),
		Loopback: in && o.loopback(netip.Addr{}),
		Freebind: in && o.freebind,
		Allow:    s.allowed(on.proto, ephemeral),
	}
}

// publishedBy returns the ports that an option names to be published for good.
// The host's port is the option's, whoever listens on it in the guest.
func publishedBy(specs []portSpec) []portRange {
	var list []portRange
	for _, s := range specs {
		for _, m := range s.maps {
			if !s.auto {
				list = append(list, m.portRange)
			}
		}
	}
	return list
}

// allowed returns the ports that may be published automatically. An ephemeral
// port of UDP is a client's more often than a server's, and nobody can tell the
// two apart: it must be named.
func (s *portSpec) allowed(proto flow.Proto, ephemeral portRange) policy.Ports {
	var list []portRange
	for _, m := range s.maps {
		list = append(list, m.portRange)
	}
	if list == nil {
		list = []portRange{{1, maxPort}}
		if proto == flow.UDP {
			list = without(list, []portRange{ephemeral})
		}
	}
	return ports(without(list, s.exclude))
}

// ports makes a set of ranges.
func ports(list []portRange) policy.Ports {
	var set policy.Ports
	for _, r := range list {
		set = set.With(policy.PortRange(r.first, r.last))
	}
	return set
}

// defaultEphemeral is what the kernel starts with (ip(7), ip_local_port_range).
var defaultEphemeral = portRange{32768, 60999}

// parseEphemeral reads the text of the sysctl net.ipv4.ip_local_port_range.
func parseEphemeral(text string) portRange {
	f := strings.Fields(text)
	if len(f) != 2 {
		return defaultEphemeral
	}
	first, err1 := strconv.ParseUint(f[0], 10, 16)
	last, err2 := strconv.ParseUint(f[1], 10, 16)
	if err := cmp.Or(err1, err2); err != nil || first > last {
		return defaultEphemeral
	}
	return portRange{uint16(first), uint16(last)}
}

// A table takes rules; portfwd.Table is the one that there is.
type table interface {
	Add(context.Context, portfwd.Rule) (id int, err error)
	AddAuto(context.Context, portfwd.AutoConfig) (id int, err error)
}

// publish publishes everything or returns why it cannot.
func publish(ctx context.Context, to table, list []publication) error {
	for _, p := range list {
		if err := p.publish(ctx, to); err != nil {
			return err
		}
	}
	return nil
}

func (p *publication) publish(ctx context.Context, to table) error {
	if p.auto != nil {
		if _, err := to.AddAuto(ctx, *p.auto); err != nil {
			return p.explain(err)
		}
		return nil
	}
	done := 0
	var first error
	for _, r := range p.rules {
		_, err := to.Add(ctx, r)
		switch {
		case err == nil:
			done++
		case !p.weak:
			return p.explain(err)
		case first == nil:
			first = err
		}
	}
	if done == 0 && !p.optional {
		return &publishError{fmt.Sprintf("Failed to bind any port for '%s %s'", p.option, p.text), first}
	}
	return nil
}

// explain gives an error the words that callers look for.
func (p *publication) explain(err error) error {
	var bind *portfwd.BindError
	var errno syscall.Errno
	if errors.As(err, &bind) && errors.As(err, &errno) {
		return &publishError{fmt.Sprintf("Failed to bind port %d (%s) for option '%s %s'", bind.Port, sentence(errno.Error()), p.option, p.text), err}
	}
	return fmt.Errorf("option '%s %s': %w", p.option, p.text, err)
}

// sentence makes Go's words for an errno those of strerror(3), which begin with
// a capital letter.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// A publishError says in the original's words what could not be published.
type publishError struct {
	text  string
	cause error
}

// Error implements error.
func (e *publishError) Error() string { return e.text }

// Unwrap gives the cause, which may have a hint.
func (e *publishError) Unwrap() error { return e.cause }
