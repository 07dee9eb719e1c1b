package pasta

import (
	"slices"

	"taproot/portfwd"
	"taproot/stack/policy"
)

// late is 1 for what is published after the rest.
func (p *publication) late() int {
	if p.auto != nil {
		return 1
	}
	return 0
}

// insertAuto puts an automatic rule in, unless it is there. One that was taken out
// comes back.
func (w *change) insertAuto(p publication) {
	same := func(c *portfwd.AutoConfig) bool { return c != nil && followsAs(c, p.auto) && c.Allow == p.auto.Allow }
	isSame := func(i item) bool { return same(i.auto) }
	switch i := slices.IndexFunc(w.gone, isSame); {
	case i >= 0:
		w.live, w.gone = append(w.live, w.gone[i]), slices.Delete(w.gone, i, i+1)
	case slices.ContainsFunc(w.live, isSame), slices.ContainsFunc(w.add, func(p publication) bool { return same(p.auto) }):
	default:
		w.add = append(w.add, p)
	}
}

// removeAuto takes an automatic rule out. Ports that pasta left out of it when it was
// started, because its other options named them, need not be excluded.
func (w *change) removeAuto(p publication) error {
	named := w.named(p.auto)
	same := func(c *portfwd.AutoConfig) bool {
		return c != nil && followsAs(c, p.auto) && c.Allow.Without(named) == p.auto.Allow.Without(named)
	}
	if i := slices.IndexFunc(w.live, func(i item) bool { return same(i.auto) }); i >= 0 {
		w.gone, w.live = append(w.gone, w.live[i]), slices.Delete(w.live, i, i+1)
		return nil
	}
	if i := slices.IndexFunc(w.add, func(p publication) bool { return same(p.auto) }); i >= 0 {
		w.add = slices.Delete(w.add, i, i+1)
		return nil
	}
	return &absentError{p.option, p.text}
}

// followsAs tells whether two automatic rules follow the same side and publish on the
// same addresses, as far as pasta's words can tell.
func followsAs(a, b *portfwd.AutoConfig) bool {
	return a.Direction == b.Direction && a.Proto == b.Proto && a.Listen == b.Listen && a.Device == b.Device
}

// named returns the ports that rules of the instance publish for good on the side that
// an automatic rule follows.
func (w *change) named(c *portfwd.AutoConfig) policy.Ports {
	var ports policy.Ports
	for _, i := range slices.Concat(w.live, w.gone) {
		if i.auto == nil && i.rule.Direction == c.Direction && i.rule.Proto == c.Proto {
			first := i.rule.Listen.Port()
			ports = ports.With(policy.PortRange(first, first+uint16(i.rule.Count()-1)))
		}
	}
	return ports
}
