package flow

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A modelFlow is what the model knows of one flow.
type modelFlow struct {
	*Flow

	way     Way
	rule    int
	inbound bool
	closed  bool
	killed  bool
	bytes   Bytes
	killer  *victim // nil until the owner has said whom to kill
}

// A tableModel is a Table as one would write it who has all the time of the world:
// it keeps every flow, and counts by looking at all of them.
type tableModel struct {
	table *Table
	cfg   Config

	flows     []*modelFlow
	refused   [protos]uint64
	peak      [protos]int
	fullCalls int // of Config.Full
	forgotten map[int]bool
}

func newTableModel(t *rapid.T) *tableModel {
	m := &tableModel{forgotten: make(map[int]bool)}
	m.cfg = Config{
		MaxTCP:    rapid.IntRange(1, 6).Draw(t, "tcp"),
		MaxFrames: rapid.IntRange(1, 6).Draw(t, "frames"),
		MaxUDP:    rapid.IntRange(1, 4).Draw(t, "udp"),
		MaxICMP:   rapid.IntRange(1, 2).Draw(t, "icmp"),
		Full:      func(Proto) { m.fullCalls++ },
	}
	m.table = New(m.cfg)
	return m
}

// live returns the flows of a protocol that are not closed, of the ways given.
func (m *tableModel) live(p Proto, ways ...Way) []*modelFlow {
	var list []*modelFlow
	for _, f := range m.flows {
		if f.Proto == p && !f.closed && slices.Contains(ways, f.way) {
			list = append(list, f)
		}
	}
	return list
}

// full tells whether one flow more would be too many.
func (m *tableModel) full(p Proto) bool {
	limit := [protos]int{m.cfg.MaxTCP, m.cfg.MaxUDP, m.cfg.MaxICMP}
	return len(m.live(p, ByFrames, Shortcut)) >= limit[p]
}

// crowded tells whether one flow by frames more would be.
func (m *tableModel) crowded(p Proto, w Way) bool {
	return p == TCP && w == ByFrames && len(m.live(TCP, ByFrames)) >= m.cfg.MaxFrames
}

// any picks a flow, closed or not, and skips the step where there is none.
func (m *tableModel) any(t *rapid.T) *modelFlow {
	if len(m.flows) == 0 {
		t.Skip("no flow")
	}
	return rapid.SampledFrom(m.flows).Draw(t, "flow")
}

func (m *tableModel) open(t *rapid.T) {
	p, w := Proto(rapid.IntRange(0, int(ICMP)).Draw(t, "proto")), ByFrames
	if p == TCP {
		w = Way(rapid.IntRange(0, int(Shortcut)).Draw(t, "way"))
	}
	full, calls := m.full(p) || m.crowded(p, w), m.fullCalls
	f, err := m.table.OpenBy(key(p, uint16(len(m.flows)%3)), w)
	if full {
		m.refused[p]++
		if !errors.Is(err, ErrFull) || f != nil || m.fullCalls != calls+1 {
			t.Fatalf("full table: got %v and error %v", f, err)
		}
		return
	}
	if err != nil || f.Way() != w || m.fullCalls != calls {
		t.Fatalf("got %v and error %v, want a flow", f, err)
	}
	if n := len(m.flows); n > 0 && f.ID <= m.flows[n-1].ID {
		t.Fatalf("got id %d after %d", f.ID, m.flows[n-1].ID)
	}
	m.flows = append(m.flows, &modelFlow{Flow: f, way: w})
	m.peak[p] = max(m.peak[p], len(m.live(p, ByFrames, Shortcut)))
}

func (m *tableModel) close(t *rapid.T) {
	f := m.any(t)
	f.Close()
	f.closed = true
	m.forgive()
}

func (m *tableModel) setWay(t *rapid.T) {
	f, w := m.any(t), Way(rapid.IntRange(0, int(Shortcut)).Draw(t, "way"))
	if f.Proto != TCP {
		t.Skip("one way only")
	}
	var want error
	switch {
	case f.closed || f.way == w:
	case m.crowded(TCP, w):
		want = ErrFull
	default:
		f.way = w
	}
	if err := f.SetWay(w); err != want {
		t.Fatalf("set way: got %v, want %v", err, want)
	}
}

func (m *tableModel) move(t *rapid.T) {
	f, out, in := m.any(t), rapid.Int64Range(0, 1<<40).Draw(t, "out"), rapid.Int64Range(0, 1<<40).Draw(t, "in")
	if f.closed {
		t.Skip("closed flows move nothing")
	}
	f.ToTarget.Add(out)
	f.ToInitiator.Add(in)
	f.bytes.ToTarget += uint64(out)
	f.bytes.ToInitiator += uint64(in)
}

func (m *tableModel) setRule(t *rapid.T) {
	f := m.any(t)
	id, inbound := rapid.IntRange(1, 3).Draw(t, "rule"), rapid.Bool().Draw(t, "inbound")
	if f.bytes != (Bytes{}) || m.forgotten[id] {
		t.Skip("bytes moved already, or the rule is gone")
	}
	f.SetRule(id, inbound)
	if !f.closed && f.rule == 0 {
		f.rule, f.inbound = id, inbound
	}
}

func (m *tableModel) forgetRule(t *rapid.T) {
	id := rapid.IntRange(1, 3).Draw(t, "rule")
	m.table.ForgetRule(id)
	m.forgotten[id] = true
	m.forgive()
}

// forgive lets a rule begin anew that is forgotten and has no flow left: as far as
// the counters go it is another one then.
func (m *tableModel) forgive() {
	for id := range m.forgotten {
		of := func(f *modelFlow) bool { return f.rule == id }
		if slices.ContainsFunc(m.flows, func(f *modelFlow) bool { return of(f) && !f.closed }) {
			continue
		}
		delete(m.forgotten, id)
		for _, f := range m.flows {
			if of(f) {
				f.rule = -id // counts for no rule any more
			}
		}
	}
}

func (m *tableModel) kill(t *rapid.T) {
	f := m.any(t)
	f.Kill()
	f.killed = true
}

func (m *tableModel) setKiller(t *rapid.T) {
	f := m.any(t)
	if f.killer != nil {
		t.Skip("once")
	}
	f.killer = &victim{}
	f.SetKiller(f.killer)
}

// check holds everything that a Table tells against the model.
func (m *tableModel) check(t *rapid.T) {
	totals := m.table.Totals()
	for p := range protos {
		want := Stats{
			Live: len(m.live(p, ByFrames, Shortcut)), Peak: m.peak[p],
			Opened: m.opened(p), Refused: m.refused[p], Ended: m.bytes(p, false),
		}
		if got := m.table.Stats(p); got != want || totals.Proto[p] != want {
			t.Fatalf("%v: got %+v and %+v, want %+v", p, got, totals.Proto[p], want)
		}
		if want := m.bytes(p, true); totals.Bytes[p] != want {
			t.Fatalf("%v: got %+v, want %+v", p, totals.Bytes[p], want)
		}
	}
	if want := len(m.live(TCP, Shortcut)); totals.Shortcut != want {
		t.Fatalf("by the shortcut: got %d, want %d", totals.Shortcut, want)
	}
	if want := m.rules(); !maps.Equal(totals.Rules, want) {
		t.Fatalf("rules: got %+v, want %+v", totals.Rules, want)
	}
	m.checkFlows(t)
}

// checkFlows looks at each flow, and at who is found.
func (m *tableModel) checkFlows(t *rapid.T) {
	want := ""
	for _, f := range m.flows {
		if f.Killed() != f.killed || f.killer != nil && f.killed != (f.killer.kills > 0) {
			t.Fatalf("flow %d: killed: got %v by %+v, want %v", f.ID, f.Killed(), f.killer, f.killed)
		}
		if !f.closed {
			want += fmt.Sprintln(f.ID, f.way, max(f.rule, -f.rule), f.inbound, f.bytes)
		}
	}
	got := ""
	for _, f := range m.table.Find(&Filter{}) {
		i := f.Info()
		got += fmt.Sprintln(i.ID, i.Way, i.Rule, i.Inbound, i.Bytes)
	}
	if got != want {
		t.Fatalf("flows: got\n%swant\n%s", got, want)
	}
}

// opened counts the flows of a protocol that there ever were.
func (m *tableModel) opened(p Proto) (n uint64) {
	for _, f := range m.flows {
		if f.Proto == p {
			n++
		}
	}
	return n
}

// bytes counts those of flows that have ended, or of all.
func (m *tableModel) bytes(p Proto, all bool) (b Bytes) {
	for _, f := range m.flows {
		if f.Proto == p && (all || f.closed) {
			b.ToTarget += f.bytes.ToTarget
			b.ToInitiator += f.bytes.ToInitiator
		}
	}
	return b
}

// rules counts for each rule.
func (m *tableModel) rules() map[int]RuleStats {
	all := make(map[int]RuleStats)
	for _, f := range m.flows {
		if f.rule <= 0 {
			continue
		}
		s := all[f.rule]
		s.Opened++
		if !f.closed {
			s.Live++
		}
		s.Bytes.ToTarget += f.bytes.ToTarget
		s.Bytes.ToInitiator += f.bytes.ToInitiator
		s.forgotten = m.forgotten[f.rule]
		all[f.rule] = s
	}
	return all
}

// TestTableModel plays random lives of flows on a Table and on a model of it.
func TestTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newTableModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"open": m.open, "open more": m.open, "open even more": m.open, "close": m.close, "way": m.setWay, "move": m.move,
			"rule": m.setRule, "forget": m.forgetRule, "kill": m.kill, "killer": m.setKiller,
			"": m.check,
		})
	})
}
