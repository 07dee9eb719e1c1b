package portfwd

import (
	"context"
	"errors"
	"syscall"
)

// addNamed is add for a rule that somebody asks for. Ports that automatic rules have
// published are left to it: what is named is meant, whoever listens there in the guest.
// They are theirs again when it is gone.
func (t *Table) addNamed(ctx context.Context, r Rule) (id int, err error) {
	id, err = t.add(ctx, r, 0)
	if !errors.Is(err, syscall.EADDRINUSE) || r.ListenUnix != "" {
		return id, err
	}
	t.scanning.Lock() // no automatic rule takes a port before r has it
	defer t.scanning.Unlock()
	if !t.yield(r) {
		return 0, err
	}
	return t.add(ctx, r, 0)
}

// yield removes the ports of automatic rules that are in the way of a rule, and tells
// whether there were any. Their connections go on. The caller holds scanning.
func (t *Table) yield(r Rule) (found bool) {
	for _, e := range t.all() {
		at := e.Rule.Listen.Port()
		if e.By == 0 || e.Rule.Direction != r.Direction || e.Rule.Proto != r.Proto || !r.Overlaps(at) || !e.Rule.meets(r) {
			continue
		}
		if a := t.autos.rules[e.By]; a != nil {
			delete(a.have, at)
		}
		if err := t.removeRule(e.ID, ExistingStay); err != nil && !errors.Is(err, ErrNoRule) {
			t.cfg.Log.Debug("automatic port not removed", "port", at, "error", err)
		}
		found = true
	}
	return found
}
