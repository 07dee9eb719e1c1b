package flow

import (
	"testing"
	"time"
)

// An owner closes its flow when it is asked to.
type owner struct{ *Flow }

func (o owner) Kill() { o.Close() }

// TestMakeRoom wants flows without an answer to give way, whoever owns them, and no
// others.
func TestMakeRoom(t *testing.T) {
	table := New(Config{})
	open := func(p Proto, port uint16) *Flow {
		t.Helper()
		f, err := table.Open(key(p, port))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	answered, unanswered, unowned := open(UDP, 1), open(UDP, 2), open(UDP, 3)
	answered.ToInitiator.Store(1)
	other := open(ICMP, 1)
	for _, f := range []*Flow{answered, unanswered, other} {
		f.SetKiller(owner{f})
	}
	for _, want := range []bool{true, false} {
		if got := table.MakeRoom(UDP); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if table.MakeRoom(protos) {
		t.Error("unknown protocol: got true, want false")
	}
	for f, want := range map[*Flow]bool{answered: false, unanswered: true, unowned: false, other: false} {
		if got := f.closed.Load(); got != want {
			t.Errorf("%v closed: got %v, want %v", f.Key, got, want)
		}
	}
}

// A yielder is an owner that says what speaks for its flow.
type yielder struct {
	owner
	claim  Claim
	yields bool
}

func (y yielder) Claim() (Claim, bool) { return y.claim, y.yields }

// TestYielders wants flows that were answered to give way in the order of what speaks
// for them, and none that is in use.
func TestYielders(t *testing.T) {
	table := New(Config{})
	var flows []*Flow
	for port, y := range []yielder{
		{claim: Claim{Idle: 3 * time.Second}, yields: true},
		{claim: Claim{Idle: time.Second}, yields: true},
		{claim: Claim{Assured: true, Idle: time.Minute}, yields: true},
		{claim: Claim{Assured: true, Idle: busy}, yields: true},
		{claim: Claim{Assured: true, Idle: busy - 1}, yields: true},
		{claim: Claim{Idle: time.Hour}},
	} {
		f, err := table.Open(key(UDP, uint16(port)))
		if err != nil {
			t.Fatal(err)
		}
		f.ToInitiator.Store(1)
		y.owner = owner{f}
		f.SetKiller(y)
		flows = append(flows, f)
	}
	for i, f := range flows {
		if want := i < 4; table.MakeRoom(UDP) != want || f.closed.Load() != want {
			t.Errorf("flow %d: closed %v, want %v", i, f.closed.Load(), want)
		}
	}
}
