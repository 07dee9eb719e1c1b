package api

import (
	"os"
	"strings"
	"testing"

	"taproot/internal/engine"
)

// TestLimitsInManPage wants each limit in the page with its help, as the counters
// are.
func TestLimitsInManPage(t *testing.T) {
	const path = "../../docs/man/taproot-ctl.1"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(b), ".Sh LIMITS\n")
	_, items, _ := strings.Cut(page, ".Bl -tag -width Ds\n")
	items, _, _ = strings.Cut(items, ".El\n")
	var want strings.Builder
	for _, l := range append(engine.Limits(), (&Server{}).limits()...) {
		want.WriteString(".It Li " + l.Name + "\n" + l.Help + "\n")
	}
	if items != want.String() {
		t.Errorf("%s: LIMITS: got\n%s\nwant\n%s", path, items, want.String())
	}
}
