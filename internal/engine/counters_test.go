package engine

import (
	"os"
	"strings"
	"testing"
)

// TestCountersInManPage wants each counter in the page with its help, which is
// where they are looked up. Without the page's own words:
//
//	.It Li name
//	Help.
func TestCountersInManPage(t *testing.T) {
	const path = "../../docs/man/taproot-ctl.1"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(b), ".Sh COUNTERS\n")
	page, _, _ = strings.Cut(page, ".Sh ")
	var want strings.Builder
	seen := make(map[string]bool)
	for _, group := range counterTable() {
		for _, c := range group.counters {
			if seen[c.name] || !strings.HasSuffix(c.help, ".") {
				t.Errorf("counter %s: twice, or its help %q is no sentence", c.name, c.help)
			}
			seen[c.name] = true
			want.WriteString(".It Li " + c.name + "\n" + c.help + "\n")
		}
	}
	_, items, _ := strings.Cut(page, ".Bl -tag -width Ds\n")
	items, _, _ = strings.Cut(items, ".El\n")
	if items != want.String() {
		t.Errorf("%s: COUNTERS: got\n%s\nwant\n%s", path, items, want.String())
	}
}
