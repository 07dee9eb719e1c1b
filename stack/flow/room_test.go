package flow

import "testing"

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
