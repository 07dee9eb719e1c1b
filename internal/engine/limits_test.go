package engine

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"taproot/stack/flow"
)

// TestLimits wants all limits with their numbers from a gateway that has nothing,
// and none from an engine that means others.
func TestLimits(t *testing.T) {
	g := &gateway{flows: flow.New(flow.Config{}), machine: thisMachine()}
	seen := make(map[string]bool)
	for _, l := range namedLimits(g.uses(&flow.Totals{})) {
		if seen[l.Name] || !strings.HasSuffix(l.Help, ".") {
			t.Errorf("limit %s: twice, or its help %q is no sentence", l.Name, l.Help)
		}
		seen[l.Name] = true
	}
	if len(seen) != len(limitTable()) {
		t.Errorf("got %d limits, want %d", len(seen), len(limitTable()))
	}
	if got := namedLimits(make([]Use, len(limitTable())+1)); got != nil {
		t.Errorf("one too many: got %v", got)
	}
}

func TestOpenDescriptors(t *testing.T) {
	before := openDescriptors(maxDescriptors())
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := openDescriptors(maxDescriptors()); before < 3 || got != before+1 {
		t.Errorf("got %d, then %d, want one more", before, got)
	}
	if got := openDescriptors(2); got != 2 { // standard input and output
		t.Errorf("of 2: got %d, want 2", got)
	}
}

func TestBoundedMemory(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	env := boundedMemory(nil)
	if len(env) != 1 || !strings.HasPrefix(env[0], "GOMEMLIMIT=") {
		t.Errorf("got %q, want a limit", env)
	}
	t.Setenv("GOMEMLIMIT", "100MiB")
	if env := boundedMemory(nil); env != nil {
		t.Errorf("with a limit: got %q, want nothing more", env)
	}
}

// TestLimitsInDocs wants the table of docs/limits.md to be ours.
func TestLimitsInDocs(t *testing.T) {
	const path = "../../docs/limits.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	usual := LimitSettings(nil).on(machine{descriptors: 1 << 20, memory: mostMemory})
	var want strings.Builder
	want.WriteString("| Name | Usual | Least | What, and why so many |\n|---|---|---|---|\n")
	for _, l := range limitTable() {
		least := "-" // not to be set
		if l.least > 0 {
			least = unit(l.least)
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s | %s %s |\n", l.name, unit(*l.number(&usual)), least, l.help, l.reason)
	}
	_, table, _ := strings.Cut(string(b), "<!-- limits -->\n")
	table, _, _ = strings.Cut(table, "<!-- end -->")
	if table != want.String() {
		t.Errorf("%s: got\n%s\nwant\n%s", path, table, want.String())
	}
}

// unit writes a number as ParseLimits reads it.
func unit(n uint64) string {
	for _, u := range []struct {
		size uint64
		name string
	}{{1 << 30, "G"}, {1 << 20, "M"}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprint(n/u.size, u.name)
		}
	}
	return fmt.Sprint(n)
}

func TestParseLimits(t *testing.T) {
	for _, test := range []struct {
		given string
		want  string // of the settings, or part of the error
	}{
		{"flows_tcp=100", "map[flows_tcp:100]"},
		{"memory=256M", "map[memory:268435456]"},
		{"flows_tcp=1 flows_tcp=2 flows_udp=4K", "map[flows_tcp:2 flows_udp:4096]"},
		{"flows_tcp", "NAME=NUMBER"},
		{"flows=1", "flows_tcp_frames"},
		{"fragments=1", "not within"},
		{"fragments=1M", "map[fragments:1048576]"},
		{"flows_tcp=0", "not within"},
		{"flows_tcp=-1", "no number"},
		{"flows_tcp=", "no number"},
		{"flows_tcp=1M1", "no number"},
		{"flows_tcp=18446744073709551615G", "no number"},
		{"memory=1K", "not within"},
	} {
		s, err := ParseLimits(strings.Fields(test.given))
		got := fmt.Sprint(map[string]uint64(s))
		if err != nil {
			got = err.Error()
		}
		if got != test.want && (err == nil || !strings.Contains(got, test.want)) {
			t.Errorf("%s: got %s, want %s", test.given, got, test.want)
		}
	}
}

// What the environment says counts where the command line says nothing, and what
// makes no sense is told.
func TestLimitVariable(t *testing.T) {
	for _, test := range []struct {
		value, want string
		warns       int
	}{
		{"", "map[flows_udp:7]", 0},
		{"flows_tcp=5,flows_udp=9", "map[flows_tcp:5 flows_udp:7]", 0},
		{"flows=5", "map[flows_udp:7]", 1},
	} {
		warns := 0
		cfg := Config{Limits: LimitSettings{"flows_udp": 7}, Warn: func(string, string) { warns++ }}
		cfg.readLimits(test.value)
		if got := fmt.Sprint(map[string]uint64(cfg.Limits)); got != test.want || warns != test.warns {
			t.Errorf("%q: got %s and %d warnings, want %s and %d", test.value, got, warns, test.want, test.warns)
		}
	}
}

// TestNumbers wants limits to leave descriptors to others, however few there are, and
// what was set.
func TestNumbers(t *testing.T) {
	for _, test := range []struct{ descriptors, want uint64 }{
		{64, 48}, {256, 192}, {320, 256}, {1024, 820}, {1 << 20, 838861},
	} {
		n := LimitSettings{"flows_udp": 7, "memory": 1 << 30}.on(machine{descriptors: test.descriptors})
		if n.descriptors != test.want || n.flowsUDP != 7 || n.memory != 1<<30 || n.tcpMemory != 1<<29 {
			t.Errorf("of %d descriptors: got %+v, want %d for flows", test.descriptors, n, test.want)
		}
		if n.flowsICMP > test.descriptors/4 || n.dialsFrames > test.descriptors/4 || n.dnsDatagrams+n.dnsMessages > test.descriptors-n.descriptors {
			t.Errorf("of %d descriptors: got %+v", test.descriptors, n)
		}
	}
}

// FuzzParseLimits wants what is taken for a setting to be one that an engine can have,
// and the same again when it is said again.
func FuzzParseLimits(f *testing.F) {
	for _, text := range []string{"flows_tcp=5", "memory=4G", "memory=18446744073709551615K", "flows_udp=-1", "=", "flows_tcp=1,flows_tcp=2", "flows_tcp=0x10", "K=K"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := ParseLimits(strings.Split(text, ","))
		if err != nil {
			return
		}
		var again []string
		for name, n := range settings {
			if l, err := settable(name); err != nil || n < l.least || n > mostLimit {
				t.Errorf("%q: got %s=%d and %v", text, name, n, err)
			}
			again = append(again, fmt.Sprintf("%s=%d", name, n))
		}
		if got, err := ParseLimits(again); err != nil || !maps.Equal(got, settings) {
			t.Errorf("%q: got %v and %v, want %v", again, got, err, settings)
		}
		settings.on(machine{descriptors: 1024, memory: 1 << 30})
	})
}
