package flow

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// infoOf returns a flow of another table, as it comes from another process.
func infoOf(t *testing.T, id uint64) Info {
	t.Helper()
	end := netip.MustParseAddrPort("192.0.2.1:80")
	b, err := json.Marshal(Info{
		ID: id, Key: Key{TCP, end, end}, Way: Shortcut, Rule: 7, Inbound: true,
		Opened: time.Now().Add(-time.Hour), Bytes: Bytes{ToTarget: 10, ToInitiator: 20},
	})
	var i Info
	if err == nil {
		err = json.Unmarshal(b, &i)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestRestore wants a flow to be the same in another table, and the next one to have
// an id of its own.
func TestRestore(t *testing.T) {
	table := New(Config{})
	for _, id := range []uint64{3, 4, 9} {
		want := infoOf(t, id)
		f, err := table.Restore(want)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Info(); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		f.ToTarget.Add(1)
	}
	if err := table.SkipTo(20); err != nil {
		t.Fatal(err)
	}
	f, err := table.Open(infoOf(t, 1).Key)
	if err != nil || f.ID != 21 || table.Last() != 21 {
		t.Errorf("got id %d, last %d and %v, want 21", f.ID, table.Last(), err)
	}
	totals := table.Totals()
	if r := totals.Rules[7]; r.Live != 3 || r.Bytes != (Bytes{33, 60}) || totals.Shortcut != 3 || totals.Proto[TCP].Live != 4 {
		t.Errorf("got %+v", totals)
	}
}

// TestRestoreRefuses wants nothing entered that no table says.
func TestRestoreRefuses(t *testing.T) {
	for name, lie := range map[string]func(*Info){
		"no id":             func(i *Info) { i.ID = 0 },
		"an id of before":   func(i *Info) { i.ID = 5 },
		"no end of ids":     func(i *Info) { i.ID = 1<<64 - 1 },
		"unknown protocol":  func(i *Info) { i.Proto = protos },
		"unknown way":       func(i *Info) { i.Way = ways },
		"a rule below none": func(i *Info) { i.Rule = -1 },
		"too many bytes":    func(i *Info) { i.ToTarget = 1 << 63 },
		"too many back":     func(i *Info) { i.ToInitiator = 1<<64 - 1 },
	} {
		table := New(Config{})
		if err := table.SkipTo(5); err != nil {
			t.Fatal(err)
		}
		i := infoOf(t, 6)
		lie(&i)
		if f, err := table.Restore(i); err == nil || table.Len(TCP) != 0 {
			t.Errorf("%s: got %+v, want an error", name, f)
		}
	}
	full := New(Config{MaxTCP: 1})
	first, second := infoOf(t, 1), infoOf(t, 2)
	first.Opened = time.Now().Add(time.Hour)
	f, err := full.Restore(first)
	if err != nil || f.Opened.After(time.Now()) {
		t.Errorf("a flow of the future: got %+v and %v", f, err)
	}
	if _, err := full.Restore(second); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want %v", err, ErrFull)
	}
}
