package portfwd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"taproot/stack/flow"
)

// modelPorts is how many ports the rules of the model have among them, and
// modelSockets how many sockets: few, so that they get in each other's way.
const (
	modelPorts   = 5
	modelSockets = 9
)

// A modelSocket is where a socket listens. The zero address is all of both families.
type modelSocket struct {
	proto flow.Proto
	addr  netip.Addr
	port  uint16
}

// meets tells whether the kernel would refuse one because of the other.
func (s modelSocket) meets(o modelSocket) bool {
	return s.proto == o.proto && s.port == o.port && (s.addr == o.addr || s.addr == netip.Addr{} || o.addr == netip.Addr{})
}

// A modelRule is what the model knows of a rule.
type modelRule struct {
	Entry
	sockets []modelSocket
	paused  map[int]bool // indices
}

// An engineModel is a Carrier that keeps what an engine would have.
type engineModel struct {
	mu sync.Mutex
	// +checklocks:mu
	listeners map[SocketID]Listener
}

func (e *engineModel) Publish(listeners []Listener, files []*os.File) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(files) != len(listeners) {
		return fmt.Errorf("%d listeners with %d files", len(listeners), len(files))
	}
	for _, l := range listeners {
		e.listeners[SocketID{Rule: l.Rule, Index: l.Index}] = l
	}
	return nil
}

func (e *engineModel) Unpublish(id int, _ Existing) (func() error, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.listeners {
		if s.Rule == id {
			delete(e.listeners, s)
		}
	}
	return func() error { return nil }, nil
}

func (e *engineModel) Pause(SocketID) error  { return nil }
func (e *engineModel) Resume(SocketID) error { return nil }

// die forgets everything, as an engine does that is started anew.
func (e *engineModel) die() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listeners = make(map[SocketID]Listener)
}

// targets returns where an engine's sockets lead, by rule and index.
func (e *engineModel) targets() map[SocketID]uint16 {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make(map[SocketID]uint16)
	for id, l := range e.listeners {
		all[id] = l.TargetPort
	}
	return all
}

// A tableModel is a Table, and what it should be.
type tableModel struct {
	table   *Table
	engine  *engineModel
	first   uint16 // port
	rules   []*modelRule
	last    int // id
	told    []Entry
	changes <-chan Change
}

// newTableModel returns one that is closed when the test of it ends.
func newTableModel(t *rapid.T, first uint16) *tableModel {
	m := &tableModel{first: first, engine: &engineModel{}}
	m.engine.die()
	m.table = NewTable(TableConfig{Carrier: m.engine, MaxSockets: modelSockets})
	t.Cleanup(m.table.Close)
	var stop func()
	m.told, m.changes, stop = m.table.Changes()
	t.Cleanup(stop)
	return m
}

// absent is an address that no machine has (RFC 5737).
var absent = netip.MustParseAddr("192.0.2.77")

// drawRule draws an inbound rule.
func (m *tableModel) drawRule(t *rapid.T) Rule {
	loopback, other := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	r := Rule{
		Proto: rapid.SampledFrom([]flow.Proto{flow.TCP, flow.UDP}).Draw(t, "proto"),
		Ports: rapid.IntRange(1, 3).Draw(t, "ports"),
		Weak:  rapid.Bool().Draw(t, "weak"),
	}
	addr := rapid.SampledFrom([]netip.Addr{{}, loopback, other, netip.IPv6Loopback(), absent}).Draw(t, "address")
	port := m.first + uint16(rapid.IntRange(0, modelPorts-r.Ports).Draw(t, "port"))
	r.Listen = netip.AddrPortFrom(addr, port)
	r.Local = !addr.IsValid() && rapid.Bool().Draw(t, "local")
	r.Wait = addr.IsValid() && rapid.Bool().Draw(t, "wait")
	r.Target = netip.AddrPortFrom(netip.Addr{}, 80)
	return r
}

// free tells whether nothing is in the way of a socket.
func (m *tableModel) free(s modelSocket) bool {
	for _, r := range m.rules {
		if slices.ContainsFunc(r.sockets, s.meets) {
			return false
		}
	}
	return s.addr != absent
}

// open returns what a rule should have open, and whether it should be at all.
func (m *tableModel) open(r Rule) (sockets []modelSocket, ok bool) {
	addresses := []netip.Addr{r.Listen.Addr()}
	if r.Local {
		addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	}
	for i, a := range addresses {
		for p := range r.Ports {
			s := modelSocket{r.Proto, a, r.Listen.Port() + uint16(p)}
			if m.free(s) {
				sockets = append(sockets, s)
			} else if !r.Weak {
				return nil, false
			}
		}
		if i == 0 && len(sockets) == 0 {
			return nil, false
		}
	}
	return sockets, true
}

// count counts sockets of all rules.
func (m *tableModel) count() (n int) {
	for _, r := range m.rules {
		n += len(r.sockets)
	}
	return n
}

func (m *tableModel) add(t *rapid.T) {
	r := m.drawRule(t)
	want, ok := m.open(r)
	room := r.Count()
	if r.Local {
		room *= 2
	}
	full := m.count()+room > modelSockets
	id, err := m.table.Add(t.Context(), r)
	waiting := !full && r.Wait && r.Listen.Addr() == absent
	if full || !ok && !waiting {
		bind := (*BindError)(nil)
		if id != 0 || !errors.As(err, &bind) || full != errors.Is(err, syscall.EMFILE) {
			t.Fatalf("add %v: got %d and error %v, want none (full: %v)", r, id, err, full)
		}
		return
	}
	m.last++
	if err != nil || id != m.last {
		t.Fatalf("add %v: got %d and error %v, want %d", r, id, err, m.last)
	}
	e := Entry{ID: id, Rule: r}
	if waiting {
		e.State, want = StateWaiting, nil
	}
	ports := make(map[uint16]bool)
	for _, s := range want {
		ports[s.port] = true
	}
	e.Bound = len(ports)
	m.rules = append(m.rules, &modelRule{Entry: e, sockets: want, paused: make(map[int]bool)})
}

func (m *tableModel) remove(t *rapid.T) {
	id := rapid.IntRange(0, m.last+1).Draw(t, "id")
	remove := m.table.Remove
	if rapid.Bool().Draw(t, "kill") {
		remove = m.table.RemoveKill
	}
	i := slices.IndexFunc(m.rules, func(r *modelRule) bool { return r.ID == id })
	err := remove(id)
	if (i < 0) != errors.Is(err, ErrNoRule) || i >= 0 && err != nil {
		t.Fatalf("remove %d: got %v, known: %v", id, err, i >= 0)
	}
	if i >= 0 {
		m.rules = slices.Delete(m.rules, i, i+1)
	}
}

// restart has the engine die, and another one get everything.
func (m *tableModel) restart(t *rapid.T) {
	m.engine.die()
	if err := m.table.Republish(); err != nil {
		t.Fatalf("publish again: %v", err)
	}
	for _, r := range m.rules {
		clear(r.paused)
	}
}

func (m *tableModel) retry(t *rapid.T) { m.table.Retry(t.Context()) }

// refuse pauses or resumes a TCP socket.
func (m *tableModel) refuse(t *rapid.T) {
	var all []SocketID
	for _, r := range m.rules {
		for i, s := range r.sockets {
			if s.proto == flow.TCP {
				all = append(all, SocketID{Rule: r.ID, Index: i})
			}
		}
	}
	if len(all) == 0 {
		t.Skip("no socket")
	}
	id := rapid.SampledFrom(all).Draw(t, "socket")
	r := m.rules[slices.IndexFunc(m.rules, func(r *modelRule) bool { return r.ID == id.Rule })]
	if r.paused[id.Index] {
		m.table.resume(id)
		delete(r.paused, id.Index)
	} else if r.paused[id.Index] = true; !m.table.pause(id) {
		t.Fatalf("pause %v: got false", id)
	}
}

// check holds what the table lists, what the engine has and what was told against
// the model.
func (m *tableModel) check(t *rapid.T) {
	var want []Entry
	sockets := make(map[SocketID]uint16)
	for _, r := range m.rules {
		e := r.Entry
		if len(r.paused) > 0 {
			e.State = StateRefusing
		}
		want = append(want, e)
		for i, s := range r.sockets {
			sockets[SocketID{Rule: r.ID, Index: i}] = 80 + s.port - r.Rule.Listen.Port()
		}
	}
	got := m.table.List()
	if !slices.EqualFunc(got, want, sameEntry) {
		t.Fatalf("list: got %+v, want %+v", got, want)
	}
	if got := m.engine.targets(); fmt.Sprint(got) != fmt.Sprint(sockets) {
		t.Fatalf("the engine has %v, want %v", got, sockets)
	}
	m.hear(t)
	if !slices.Equal(m.told, got) {
		t.Fatalf("told: got %+v, want %+v", m.told, got)
	}
	m.table.mu.Lock()
	n := m.table.sockets
	m.table.mu.Unlock()
	if n != len(sockets) {
		t.Fatalf("sockets: counted %d, want %d", n, len(sockets))
	}
}

// sameEntry compares all but the words of an error, which must be there or not.
func sameEntry(got, want Entry) bool {
	if (got.Err == "") != (want.State == StateOpen) {
		return false
	}
	got.Err = want.Err
	return got == want
}

// hear plays what was told of changes on the list that there was before.
func (m *tableModel) hear(t *rapid.T) {
	for len(m.changes) > 0 {
		c := <-m.changes
		i := slices.IndexFunc(m.told, func(e Entry) bool { return e.ID == c.Entry.ID })
		switch {
		case (c.Kind == RuleAdded) != (i < 0):
			t.Fatalf("told of %+v, which is known: %v", c, i >= 0)
		case c.Kind == RuleAdded:
			m.told = append(m.told, c.Entry)
		case c.Kind == RuleRemoved:
			m.told = slices.Delete(m.told, i, i+1)
		default:
			m.told[i] = c.Entry
		}
	}
}

// TestTableModel plays random changes of rules, with the kernel's real sockets.
func TestTableModel(t *testing.T) {
	first := freeRange(t, modelPorts)
	rapid.Check(t, func(t *rapid.T) {
		m := newTableModel(t, first)
		t.Repeat(map[string]func(*rapid.T){
			"add": m.add, "add more": m.add, "remove": m.remove, "engine dies": m.restart,
			"addresses change": m.retry, "refuse": m.refuse, "": m.check,
		})
	})
}
