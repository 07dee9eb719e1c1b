package flow

// Bytes count payload.
type Bytes struct{ ToTarget, ToInitiator uint64 }

// add adds what a flow has moved until now.
func (b *Bytes) add(f *Flow) {
	b.ToTarget += uint64(f.ToTarget.Load())
	b.ToInitiator += uint64(f.ToInitiator.Load())
}

// RuleStats count the flows of one published port.
type RuleStats struct {
	Live   int    // flows now in the table
	Opened uint64 // flows since the table was made
	Bytes  Bytes  // of all of them

	forgotten bool // go with the last flow
}

// SetRule says that a flow belongs to a rule of published ports, whose id is
// above 0, and whether it comes from the host. It is called once, by the owner,
// before bytes move.
func (f *Flow) SetRule(id int, inbound bool) {
	v := int64(id) << 1
	if inbound {
		v |= 1
	}
	t := f.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.closed.Load() || !f.rule.CompareAndSwap(0, v) {
		return
	}
	s := t.rules[id]
	if s == nil {
		s = &RuleStats{}
		t.rules[id] = s
	}
	s.Live++
	s.Opened++
}

// Rule returns the id of the rule that the flow belongs to; 0 is none.
func (f *Flow) Rule() int { return int(f.rule.Load() >> 1) }

// Inbound tells whether the flow comes from the host by a published port.
func (f *Flow) Inbound() bool { return f.rule.Load()&1 != 0 }

// settleLocked counts the bytes of a flow that is closed.
//
// +checklocks:t.mu
func (t *Table) settleLocked(f *Flow) {
	t.stats[f.Proto].Ended.add(f)
	id := f.Rule()
	if s := t.rules[id]; id != 0 && s != nil {
		s.Live--
		s.Bytes.add(f)
		if s.forgotten && s.Live == 0 {
			delete(t.rules, id)
		}
	}
}

// ForgetRule gives up the counters of a rule, when its last flow is closed.
func (t *Table) ForgetRule(id int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.rules[id]
	switch {
	case s == nil:
	case s.Live == 0:
		delete(t.rules, id)
	default:
		s.forgotten = true
	}
}

// Totals are the counters of a table at one moment.
type Totals struct {
	Proto [protos]Stats // by protocol
	Bytes [protos]Bytes // of all flows, live or ended
	Limit [protos]int

	Frames   Frames
	Shortcut int // live flows that take it
	Rules    map[int]RuleStats
}

// Frames are the flows of TCP by frames, which have a limit of their own.
type Frames struct {
	Live    int
	Limit   int
	Refused uint64 // flows that met the limit
}

// Totals returns all counters, with the bytes of live flows.
func (t *Table) Totals() Totals {
	t.mu.Lock()
	totals := Totals{
		Proto: t.stats, Limit: t.max, Shortcut: t.live[TCP][Shortcut],
		Frames: Frames{t.live[TCP][ByFrames], t.maxFrames, t.refusedFrames},
		Rules:  make(map[int]RuleStats, len(t.rules)),
	}
	for id, s := range t.rules {
		totals.Rules[id] = *s
	}
	flows := t.allLocked()
	t.mu.Unlock()
	for p, s := range totals.Proto {
		totals.Bytes[p] = s.Ended
	}
	for _, f := range flows {
		totals.Bytes[f.Proto].add(f)
		if id := f.Rule(); id != 0 {
			s := totals.Rules[id]
			s.Bytes.add(f)
			totals.Rules[id] = s
		}
	}
	return totals
}
