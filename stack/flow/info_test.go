package flow

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
)

func TestFind(t *testing.T) {
	table := New(Config{})
	open := func(k Key, w Way, rule int, inbound bool) *Flow {
		t.Helper()
		f, err := table.OpenBy(k, w)
		if err != nil {
			t.Fatal(err)
		}
		if rule != 0 {
			f.SetRule(rule, inbound)
		}
		return f
	}
	out := open(key(TCP, 1000), Shortcut, 0, false)
	udp := open(key(UDP, 1001), ByFrames, 0, false)
	in := open(Key{TCP, netip.MustParseAddrPort("[2001:db8::1]:80"), netip.MustParseAddrPort("[fd00::64]:8080")}, ByFrames, 7, true)
	reach := open(key(TCP, 1002), ByFrames, 8, false)
	tests := []struct {
		name   string
		filter Filter
		want   []*Flow
	}{
		{"all", Filter{}, []*Flow{out, udp, in, reach}},
		{"id", Filter{ID: udp.ID}, []*Flow{udp}},
		{"proto", Filter{Protos: []Proto{UDP, ICMP}}, []*Flow{udp}},
		{"way", Filter{Ways: []Way{Shortcut}}, []*Flow{out}},
		{"inbound", Filter{Inbound: true}, []*Flow{in}},
		{"outbound", Filter{Outbound: true}, []*Flow{out, udp, reach}},
		{"neither", Filter{Inbound: true, Outbound: true}, nil},
		{"rule", Filter{Rule: 8}, []*Flow{reach}},
		{"initiator's port", Filter{Port: 1000}, []*Flow{out}},
		{"target's port", Filter{Port: 8080}, []*Flow{in}},
		{"address", Filter{Address: netip.MustParsePrefix("2001:db8::1/128")}, []*Flow{in}},
		{"network", Filter{Address: netip.MustParsePrefix("198.51.100.0/24")}, []*Flow{out, udp, reach}},
		{"two fields", Filter{Address: netip.MustParsePrefix("198.51.100.0/24"), Port: 1002}, []*Flow{reach}},
	}
	for _, tt := range tests {
		if got := table.Find(&tt.filter); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %d flows %v, want %d", tt.name, len(got), got, len(tt.want))
		}
		b, err := json.Marshal(tt.filter)
		if err != nil {
			t.Fatal(err)
		}
		var again Filter
		if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again, tt.filter) {
			t.Errorf("%s: after JSON: got %+v, %v, want %+v", tt.name, again, err, tt.filter)
		}
	}
	in.ToTarget.Add(3)
	in.ToInitiator.Add(4)
	want := Info{ID: in.ID, Key: in.Key, Rule: 7, Inbound: true, Opened: in.Opened, Bytes: Bytes{3, 4}}
	if got := in.Info(); got != want {
		t.Errorf("info: got %+v, want %+v", got, want)
	}
}

func TestTotals(t *testing.T) {
	table := New(Config{})
	var flows []*Flow
	for i := range uint16(3) {
		f, err := table.Open(key(TCP, i))
		if err != nil {
			t.Fatal(err)
		}
		f.SetRule(5, true)
		f.ToTarget.Add(10)
		flows = append(flows, f)
	}
	flows[0].Close()
	flows[1].ToInitiator.Add(1)
	wants := []RuleStats{
		{Live: 2, Opened: 3, Bytes: Bytes{30, 1}},
		{Live: 0, Opened: 3, Bytes: Bytes{30, 1}},
	}
	for _, want := range wants {
		totals := table.Totals()
		if got := totals.Rules[5]; got != want {
			t.Errorf("rule: got %+v, want %+v", got, want)
		}
		if got, want := totals.Bytes[TCP], want.Bytes; got != want {
			t.Errorf("tcp: got %+v, want %+v", got, want)
		}
		flows[1].Close()
		flows[2].Close()
	}
	table.ForgetRule(5)
	if got := table.Totals().Rules; len(got) != 0 {
		t.Errorf("after ForgetRule: got %v, want none", got)
	}
}

// TestForgetRule wants the counters of a rule to live as long as its flows.
func TestForgetRule(t *testing.T) {
	table := New(Config{})
	f, err := table.Open(key(TCP, 1))
	if err != nil {
		t.Fatal(err)
	}
	f.SetRule(1, true)
	table.ForgetRule(1)
	table.ForgetRule(2)
	if got := table.Totals().Rules[1].Live; got != 1 {
		t.Errorf("live: got %d, want 1", got)
	}
	f.Close()
	if got := table.Totals().Rules; len(got) != 0 {
		t.Errorf("after the last: got %v, want none", got)
	}
}

// A victim counts.
type victim struct{ kills int }

func (v *victim) Kill() { v.kills++ }

func TestKill(t *testing.T) {
	table := New(Config{})
	for _, early := range []bool{false, true} {
		f, err := table.Open(key(TCP, 1))
		if err != nil {
			t.Fatal(err)
		}
		v := &victim{}
		if early {
			f.Kill()
			f.SetKiller(v)
		} else {
			f.SetKiller(v)
			f.Kill()
		}
		if v.kills != 1 || !f.Killed() {
			t.Errorf("early %v: got %d kills and Killed %v, want 1 and true", early, v.kills, f.Killed())
		}
	}
}

func TestFull(t *testing.T) {
	var full []Proto
	table := New(Config{MaxUDP: 1, Full: func(p Proto) { full = append(full, p) }})
	for range 2 {
		_, _ = table.Open(key(UDP, 1))
	}
	if want := []Proto{UDP}; !reflect.DeepEqual(full, want) {
		t.Errorf("got %v, want %v", full, want)
	}
}
