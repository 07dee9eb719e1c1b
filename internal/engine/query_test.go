package engine

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// noCounts are counters that are all zero.
func noCounts() []uint64 {
	n := 0
	for _, group := range counterTable() {
		n += len(group.counters)
	}
	return make([]uint64, n)
}

// openFlows opens n flows of a gateway, of rule 1.
func openFlows(t *testing.T, g *gateway, n int) {
	t.Helper()
	for i := range n {
		f, err := g.flows.Open(flow.Key{
			Proto:     flow.TCP,
			Initiator: netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666"), uint16(i)),
			Target:    netip.MustParseAddrPort("[2001:db8:1111:2222:3333:4444:5555:7777]:65535"),
		})
		if err != nil {
			t.Fatal(err)
		}
		f.ToTarget.Store(1<<63 - 1)
		f.ToInitiator.Store(1<<63 - 1)
		f.SetRule(i+1, true)
	}
}

// TestAnswers has a gateway answer queries in several parts, each of which is as
// a supervisor wants it.
func TestAnswers(t *testing.T) {
	const n = 3*pageFlows + 1
	ours, theirs := newWirePair(t)
	g := &gateway{wire: theirs, flows: flow.New(flow.Config{})}
	openFlows(t, g, n)
	receive := func() *answer {
		t.Helper()
		m, _, err := ours.receive()
		if err != nil || m.Answer == nil {
			t.Fatalf("got %+v and error %v, want an answer", m, err)
		}
		if err := m.Answer.check(); err != nil {
			t.Fatal(err)
		}
		return m.Answer
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.respond(&query{ID: 1, Find: &flow.Filter{}})
		g.respond(&query{ID: 2, Count: true})
		g.respond(&query{ID: 3, Kill: &flow.Filter{Port: 7}})
	}()
	last, flows := uint64(0), 0
	for more := true; more; {
		a := receive()
		for _, f := range a.Flows {
			if f.ID <= last {
				t.Fatalf("flow %d after %d", f.ID, last)
			}
			last = f.ID
		}
		more, flows = a.More, flows+len(a.Flows)
	}
	if flows != n {
		t.Errorf("flows: got %d, want %d", flows, n)
	}
	rules := 0
	for more := true; more; {
		a := receive()
		more, rules = a.More, rules+len(a.Rules)
		if !more && (a.Totals == nil || a.Totals.Proto[flow.TCP].Live != n || namedCounts(a.Counts) == nil) {
			t.Errorf("counters: got %+v", a)
		}
	}
	if rules != n {
		t.Errorf("rules: got %d, want %d", rules, n)
	}
	if got := receive().Killed; got != 1 {
		t.Errorf("killed: got %d, want 1", got)
	}
	<-done
}

// TestTooManyQueries wants those that do not fit turned away.
func TestTooManyQueries(t *testing.T) {
	ours, theirs := newWirePair(t)
	g := &gateway{queries: make(chan *query, maxQueries)}
	for i := range uint64(maxQueries) + 1 {
		g.do(theirs, message{Query: &query{ID: i + 1, Count: true}}, nil)
	}
	m, _, err := ours.receive()
	if err != nil || m.Answer == nil || !m.Answer.Busy || m.Answer.ID != maxQueries+1 {
		t.Errorf("got %+v and error %v, want the last turned away", m.Answer, err)
	}
}

// TestAsk wants each way in which an engine does not answer told apart.
func TestAsk(t *testing.T) {
	for script, want := range map[string]error{
		"answer":      nil,
		"busy":        ErrSilent,
		"bad-answer":  errAnswer,
		"endless":     errAnswer,
		"answer-dies": ErrNoEngine,
	} {
		t.Run(script, func(t *testing.T) {
			k := newKeeping(t, script+" stay")
			parts := 0
			err := k.ask(t.Context(), query{Count: true}, func(*answer) { parts++ })
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if want == nil && parts != 2 {
				t.Errorf("got %d parts, want 2", parts)
			}
		})
	}
}

// TestEngineState wants the state and the events to be true while an engine dies
// and another one is started.
func TestEngineState(t *testing.T) {
	k := newKeeping(t, "answer-dies stay")
	events, stop := k.events.listen()
	defer stop()
	if got := k.status(); got.Engine != EngineRunning || got.Restarts != 0 {
		t.Errorf("got %+v, want a first engine that runs", got)
	}
	if err := k.ask(t.Context(), query{Count: true}, func(*answer) {}); !errors.Is(err, ErrNoEngine) {
		t.Errorf("got %v, want %v", err, ErrNoEngine)
	}
	for _, want := range []EventKind{EventEngineDied, EventEngineStarted} {
		if got := <-events; got.Kind != want {
			t.Errorf("got event %v, want %v", got.Kind, want)
		}
	}
	settle.Until(t, "another engine runs", func() bool {
		st := k.status()
		return st.Engine == EngineRunning && st.Restarts == 1
	})
}

// FuzzAnswer has anything said by an engine.
func FuzzAnswer(f *testing.F) {
	for _, a := range []answer{
		{ID: 1, Flows: []flow.Info{{ID: 1, Key: flow.Key{
			Initiator: netip.MustParseAddrPort("10.0.2.100:4000"), Target: netip.MustParseAddrPort("[fe80::1%eth0]:80"),
		}}}},
		{ID: 2, Killed: 7},
		{ID: 3, Totals: &flow.Totals{Limit: [3]int{1, 1, 1}}, Counts: noCounts()},
		{ID: 4, Busy: true},
	} {
		b, err := message{Answer: &a}.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		if json.Unmarshal(b, &m) != nil {
			return
		}
		s := &supervisor{}
		if m.Answer == nil {
			return
		}
		id, answers := s.queries.add()
		m.Answer.ID = id
		s.hear(nil, message{Answer: m.Answer}, nil)
		a := <-answers
		if a.check() != nil {
			return
		}
		for _, f := range a.Flows {
			_ = f.Proto.String() + f.Way.String() + f.Initiator.String() + f.Target.String()
		}
		if _, err := (message{Answer: a}).encode(); err != nil && len(b) <= maxMessage/2 {
			t.Error(err)
		}
	})
}
