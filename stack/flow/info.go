package flow

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// An Info is what is known of a flow at one moment. It survives encoding as
// JSON.
type Info struct {
	ID uint64
	Key
	Way     Way
	Rule    int  // of a published port; 0 is none
	Inbound bool // it comes from the host
	Opened  time.Time
	Bytes
}

// A Filter says which flows are meant: those that fit all of its fields. The
// zero value means all. It survives encoding as JSON.
type Filter struct {
	ID     uint64  // 0: any
	Protos []Proto // empty: any
	Ways   []Way   // empty: any

	Inbound  bool // only those that come from the host by a published port
	Outbound bool // only others

	Address netip.Prefix // one end is in it; invalid: any
	Port    uint16       // one end has it; 0: any
	Rule    int          // of a published port; 0: any
}

// Match tells whether a flow is meant.
func (w *Filter) Match(f *Flow) bool {
	switch {
	case w.ID != 0 && w.ID != f.ID,
		len(w.Protos) > 0 && !slices.Contains(w.Protos, f.Proto),
		len(w.Ways) > 0 && !slices.Contains(w.Ways, f.Way()),
		w.Inbound && !f.Inbound(),
		w.Outbound && f.Inbound(),
		w.Rule != 0 && w.Rule != f.Rule():
		return false
	case w.Port != 0 && w.Port != f.Initiator.Port() && w.Port != f.Target.Port():
		return false
	}
	return !w.Address.IsValid() || w.has(f.Initiator) || w.has(f.Target)
}

func (w *Filter) has(a netip.AddrPort) bool {
	return w.Address.Contains(a.Addr().Unmap().WithZone(""))
}

// Find returns the live flows that are meant, in the order of their ids.
func (t *Table) Find(w *Filter) []*Flow {
	var found []*Flow
	for f := range t.All() {
		if w.Match(f) {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, func(a, b *Flow) int { return cmp.Compare(a.ID, b.ID) })
	return found
}

// Info returns what is known of a flow now.
func (f *Flow) Info() Info {
	i := Info{ID: f.ID, Key: f.Key, Way: f.Way(), Rule: f.Rule(), Inbound: f.Inbound(), Opened: f.Opened}
	i.add(f)
	return i
}
