package flow

import (
	"fmt"
	"time"
)

// maxRestored is the highest id of a flow that was another table's: there is no end to
// those that follow.
const maxRestored = 1 << 53

// Restore enters a flow that another table had, with its id, its rule and what it has
// counted, or returns ErrFull. Flows come in the order of their ids, and before those
// that Open enters. A time of its beginning that is still to come is now.
func (t *Table) Restore(i Info) (*Flow, error) {
	const most = 1 << 50 // bytes, so that sums have room
	switch now := time.Now(); {
	case i.Proto >= protos, i.Way >= ways, i.Rule < 0, i.ToTarget > most, i.ToInitiator > most:
		return nil, fmt.Errorf("restore flow %d: not what a table knows of a flow", i.ID)
	case i.Opened.After(now):
		i.Opened = now
	}
	if err := t.SkipTo(i.ID - 1); i.ID == 0 || err != nil {
		return nil, fmt.Errorf("restore flow %d: not in its turn", i.ID)
	}
	f, err := t.openAt(i.Key, i.Way, i.Opened)
	if err != nil {
		return nil, err
	}
	f.ToTarget.Store(int64(i.ToTarget))
	f.ToInitiator.Store(int64(i.ToInitiator))
	if i.Rule > 0 {
		f.SetRule(i.Rule, i.Inbound)
	}
	return f, nil
}

// Last returns the highest id that a flow has had.
func (t *Table) Last() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// SkipTo says that ids up to last were another table's.
func (t *Table) SkipTo(last uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last < t.last || last > maxRestored {
		return fmt.Errorf("flow id %d: after %d", last, t.last)
	}
	t.last = last
	return nil
}
