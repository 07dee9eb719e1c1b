package portfwd

import (
	"context"
	"errors"
	"syscall"
)

// waits tells whether a rule is to be tried again when the host's addresses
// have changed, after err.
func waits(r Rule, err error) bool {
	return r.Wait && errors.Is(err, syscall.EADDRNOTAVAIL)
}

// wait enters a rule that waits.
func (t *Table) wait(ctx context.Context, e Entry) (id int, err error) {
	if id, err = t.insert(e, nil); err == nil {
		t.Retry(ctx) // the address may have come before anybody knew that we want it
	}
	return id, err
}

// Retry opens the rules that wait for an address of the host, see Rule.Wait. It
// is to be called when the host's addresses have changed. A rule that meets
// another obstacle than before goes on waiting, and its Entry.Err says so.
func (t *Table) Retry(ctx context.Context) {
	t.retrying.Lock()
	defer t.retrying.Unlock()
	for _, e := range t.all() {
		if e.State == StateWaiting {
			t.retry(ctx, e)
		}
	}
}

// retry opens one rule that waits.
func (t *Table) retry(ctx context.Context, old *entry) {
	e := &entry{Entry: old.Entry}
	room, err := t.reserve(e.Rule)
	if err == nil {
		e.sockets, err = t.open(ctx, e.Rule)
		t.release(room - len(e.sockets))
	}
	if err != nil {
		e.Err = t.explain(ctx, e.Rule, err).Error()
	} else {
		e.Rule, e.Bound, e.State, e.Err = e.Rule.picked(e.sockets), distinct(e.sockets), StateOpen, ""
	}
	if e.Entry == old.Entry {
		return
	}
	t.carrying.Lock()
	defer t.carrying.Unlock()
	if !t.replace(old, e) {
		t.drop(e.sockets)
		return
	}
	if err := t.publish([]*entry{e}); err != nil {
		t.cfg.Log.Warn("rule not published", "id", e.ID, "error", err) // the next engine gets it
		return
	}
	t.cfg.Log.Debug("rule changed", "id", e.ID, "state", e.State.String(), "error", e.Err)
}

// replace puts an entry in the place of another one. It returns false if that
// is not there any more.
func (t *Table) replace(old, e *entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries[old.ID] != old {
		return false
	}
	t.entries[e.ID] = e
	t.tellLocked(RuleChanged, e.Entry)
	return true
}
