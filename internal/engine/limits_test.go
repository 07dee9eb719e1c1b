package engine

import (
	"os"
	"strings"
	"testing"

	"taproot/stack/flow"
)

// TestLimits wants all limits with their numbers from a gateway that has nothing,
// and none from an engine that means others.
func TestLimits(t *testing.T) {
	g := &gateway{flows: flow.New(flow.Config{}), files: maxDescriptors()}
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
