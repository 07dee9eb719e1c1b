package rules

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// arrows says which of our packages each package may import, not counting its
// tests. A package that is not in the table may not exist: adding it here is the
// place to say what it is for in review. An arrow more needs a reason in
// docs/decisions.
func arrows() map[string][]string {
	return map[string][]string{
		"cmd/taproot": {
			"cmd/internal/front", "cmd/internal/front/pasta", "cmd/internal/front/slirp",
			"internal/engine", "internal/probe", "userns",
		},
		"cmd/internal/front": {
			"cmd/internal/caller", "cmd/internal/front/pasta", "cmd/internal/front/slirp",
			"internal/api", "internal/engine", "internal/plan", "internal/probe", "portfwd", "stack/policy", "tap", "userns",
		},

		// Front ends for other programs' callers, whose options follow getopt_long.
		"cmd/internal/caller": {}, // its descriptors and signals
		"cmd/internal/getopt": {},
		"cmd/internal/front/slirp": {
			"cmd/internal/caller", "cmd/internal/getopt", "internal/api", "internal/control", "internal/engine", "internal/plan", "portfwd",
			"stack/nat", "stack/policy", "userns",
		},

		"cmd/internal/front/pasta": {
			"cmd/internal/caller", "cmd/internal/getopt", "internal/api", "internal/engine", "internal/plan", "portfwd",
			"stack/flow", "stack/nat", "stack/policy", "userns",
		},

		"internal/engine": {
			"internal/plan", "internal/relay", "internal/socket", "portfwd", // socket: docs/decisions/034-limits.md
			"stack", "stack/dhcp", "stack/dns", "stack/flow", "stack/nat", "stack/ndp", "stack/policy", "stack/reassembly", "stack/shortcut", // reassembly: its default limit
			"tap", "userns", "userns/sandbox",
		},
		"portfwd":   {"internal/relay", "internal/socket", "stack/flow", "stack/policy"},
		"stack/nat": {"internal/relay", "internal/socket", "stack", "stack/flow", "stack/policy"},
		"stack":     {"stack/link", "stack/reassembly", "tap"}, // docs/decisions/034-limits.md
		"stack/shortcut": { // docs/decisions/018-shortcut-arrows.md
			"internal/relay", "internal/socket", "stack", "stack/flow", "stack/nat", "stack/policy", "stack/shortcut/mark",
		},
		"stack/link": {"internal/socket", "tap"}, // docs/decisions/034-limits.md

		"internal/api":            {"internal/engine", "portfwd", "stack/flow"}, // docs/decisions/026-control-api.md
		"internal/control":        {"stack/flow"},
		"internal/relay":          {},
		"internal/socket":         {},
		"internal/plan":           {"userns"},        // its routes are what the stage sets
		"internal/probe":          {"tap", "userns"}, // docs/decisions/009-probe-arrows.md
		"stack/dhcp":              {},
		"stack/dns":               {"internal/socket"}, // docs/decisions/004-dns.md
		"stack/flow":              {},
		"stack/ndp":               {},
		"stack/reassembly":        {},
		"stack/policy":            {},
		"stack/policy/policytest": {}, // the table that tests and docs/policy.md share
		"tap":                     {},
		"userns":                  {"stack/shortcut/mark", "userns/nft"}, // docs/decisions/017-rules-of-the-shortcut.md
		"userns/nft":              {},
		"userns/sandbox":          {},

		"stack/shortcut/mark": {}, // numbers that userns and stack agree on

		"stack/stacktest": {"stack/link", "tap"},

		"tap/taptest":  {"tap"},
		"test/bench":   {"test/lab"},
		"test/callers": {},
		"test/demo":    {},
		"test/e2e":     {},
		"test/install": {},
		"test/lab":     {"internal/probe"},
		"test/rules":   {},
		"test/settle":  {},
		"test/summary": {},
	}
}

func TestArrows(t *testing.T) {
	table := arrows()
	for _, s := range goFiles(t) {
		allowed, ok := table[s.pkg]
		if !ok {
			t.Errorf("%s: package %s is not in the table", s.path, s.pkg)
			continue
		}
		for _, path := range s.imports() {
			name, ours := strings.CutPrefix(path, module+"/")
			if ours && !slices.Contains(allowed, name) {
				t.Errorf("%s: %s may not import %s", s.path, s.pkg, name)
			}
		}
	}
}

// TestArrowsAreUsed keeps the table from allowing what nobody does any more.
func TestArrowsAreUsed(t *testing.T) {
	unused := map[string]bool{}
	for pkg, allowed := range arrows() {
		unused[pkg] = true
		for _, name := range allowed {
			unused[pkg+" → "+name] = true
		}
	}
	for _, s := range goFiles(t) {
		delete(unused, s.pkg)
		for _, path := range s.imports() {
			delete(unused, s.pkg+" → "+strings.TrimPrefix(path, module+"/"))
		}
	}
	for _, arrow := range slices.Sorted(maps.Keys(unused)) {
		t.Errorf("%s: in the table, and nowhere else", arrow)
	}
}
