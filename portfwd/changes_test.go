package portfwd

import (
	"testing"

	"taproot/stack/flow"
)

func TestChanges(t *testing.T) {
	table, _ := newRecorded(t)
	add := func() int {
		t.Helper()
		id, err := table.Add(t.Context(), Rule{Proto: flow.TCP, Listen: addrPort("127.0.0.1:0")})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := add()
	list, changes, stop := table.Changes()
	defer stop()
	if len(list) != 1 || list[0].ID != first {
		t.Errorf("list: got %v, want rule %d", list, first)
	}
	second := add()
	if err := table.Remove(first); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		kind ChangeKind
		id   int
	}{{RuleAdded, second}, {RuleRemoved, first}} {
		if got := <-changes; got.Kind != want.kind || got.Entry.ID != want.id {
			t.Errorf("got %v of rule %d, want %v of rule %d", got.Kind, got.Entry.ID, want.kind, want.id)
		}
	}
	stop()
	if c, ok := <-changes; ok {
		t.Errorf("after stop: got %v, want the end", c)
	}
	_, changes, stop = table.Changes()
	defer stop()
	table.Close()
	if got := <-changes; got.Kind != RuleRemoved || got.Entry.ID != second {
		t.Errorf("at the end: got %v of rule %d, want the removal of %d", got.Kind, got.Entry.ID, second)
	}
	if c, ok := <-changes; ok {
		t.Errorf("after Close: got %v, want the end", c)
	}
	_, changes, stop = table.Changes()
	defer stop()
	if c, ok := <-changes; ok {
		t.Errorf("of a closed table: got %v, want the end", c)
	}
}

// TestChangesUnread wants nobody to wait for one who does not receive.
func TestChangesUnread(t *testing.T) {
	table, _ := newRecorded(t)
	_, changes, stop := table.Changes()
	defer stop()
	for range changesQueued/2 + 1 {
		id, err := table.Add(t.Context(), Rule{Proto: flow.UDP, Listen: addrPort("127.0.0.1:0")})
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for range changes {
		n++
	}
	if n != changesQueued {
		t.Errorf("got %d changes, want %d and the end", n, changesQueued)
	}
}
