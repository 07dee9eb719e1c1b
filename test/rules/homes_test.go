package rules

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// A home is where a foreign module may be imported, and why it is here at all.
type home struct {
	in       []string // packages of ours
	tests    []string // more packages, in whose tests
	decision string   // in docs/decisions
}

// homes lists every foreign module that the code imports.
func homes() map[string]home {
	return map[string]home{
		"gvisor.dev/gvisor": {
			in:       []string{"stack", "stack/link", "stack/stacktest"},
			decision: "001-netstack.md",
		},
		"github.com/songgao/water": {
			in:       []string{"tap"},
			decision: "002-tap.md",
		},
		"github.com/spf13/cobra": {
			in:       []string{"cmd/internal/front"},
			decision: "003-cobra.md",
		},
		"github.com/spf13/pflag": {
			in:       []string{"cmd/internal/front", "cmd/internal/getopt"},
			decision: "003-cobra.md",
		},
		"golang.org/x/net": {
			in:       []string{"stack/dns", "test/bench"},
			tests:    []string{"test/callers", "test/e2e"},
			decision: "004-dns.md",
		},
		"github.com/insomniacslk/dhcp": {
			in:       []string{"stack/dhcp"},
			decision: "005-dhcp-and-ndp.md",
		},
		"github.com/mdlayher/ndp": {
			in:       []string{"stack/ndp"},
			decision: "005-dhcp-and-ndp.md",
		},
		"github.com/pires/go-proxyproto": {
			in:       []string{"portfwd"},
			tests:    []string{"test/e2e"},
			decision: "024-proxy-protocol.md",
		},
		"github.com/mdlayher/netlink": {
			in:       []string{"userns", "userns/nft"},
			decision: "010-other-modules.md",
		},
		"github.com/vishvananda/netlink": {
			in:       []string{"internal/engine", "internal/plan", "test/bench", "test/lab"},
			tests:    []string{"userns"},
			decision: "010-other-modules.md",
		},
		"github.com/google/nftables": {
			in:       []string{"test/bench", "test/lab"},
			tests:    []string{"userns", "userns/nft"},
			decision: "010-other-modules.md",
		},
		"github.com/fsnotify/fsnotify": {
			in:       []string{"internal/engine"},
			decision: "010-other-modules.md",
		},
		"golang.org/x/sys": {
			in: []string{
				"cmd/internal/caller", "cmd/internal/front/pasta", "internal/api", "internal/engine", "internal/plan", "internal/probe", "internal/relay",
				"internal/socket", "portfwd", "stack/link", "stack/nat", "stack/shortcut", "tap", "tap/taptest", "test/bench", "test/lab", "userns", "userns/nft", "userns/sandbox",
			},
			tests:    []string{"test/callers", "test/e2e"},
			decision: "010-other-modules.md",
		},
		"golang.org/x/time": {
			in:       []string{"portfwd", "stack", "stack/nat", "stack/shortcut"},
			decision: "010-other-modules.md",
		},
		"pgregory.net/rapid": {
			tests:    []string{"portfwd", "stack/flow", "userns"},
			decision: "033-model-tests.md",
		},
		"github.com/rogpeppe/go-internal": {
			tests:    []string{"cmd/taproot"},
			decision: "010-other-modules.md",
		},
	}
}

func TestHomes(t *testing.T) {
	table := homes()
	for _, s := range allGoFiles(t) {
		for _, path := range s.imports() {
			if !foreign(path) {
				continue
			}
			name, h := homeOf(table, path)
			switch {
			case name == "":
				t.Errorf("%s: %s belongs to no module of the table", s.path, path)
			case slices.Contains(h.in, s.pkg), s.test && slices.Contains(h.tests, s.pkg):
			default:
				t.Errorf("%s: %s has its home in %v, not in %s", s.path, name, h.in, s.pkg)
			}
		}
	}
}

// foreign reports whether path is neither ours nor of the standard library.
func foreign(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".")
}

// homeOf returns the row of the module that has the package path.
func homeOf(table map[string]home, path string) (string, home) {
	for name, h := range table {
		if path == name || strings.HasPrefix(path, name+"/") {
			return name, h
		}
	}
	return "", home{}
}

// TestDecisions wants a note that argues for each foreign module.
func TestDecisions(t *testing.T) {
	table := homes()
	for _, name := range slices.Sorted(maps.Keys(table)) {
		path := "docs/decisions/" + table[name].decision
		if !strings.Contains(read(t, path), name) {
			t.Errorf("%s does not name %s", path, name)
		}
	}
}

// TestDirectDependencies holds go.mod and the table together.
func TestDirectDependencies(t *testing.T) {
	table := homes()
	for line := range strings.Lines(read(t, "go.mod")) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(line, "\t") {
			continue
		}
		_, used := table[f[0]]
		indirect := strings.HasSuffix(strings.TrimSpace(line), "// indirect")
		if used && indirect {
			t.Errorf("go.mod: %s is imported, but marked indirect", f[0])
		}
		if !used && !indirect {
			t.Errorf("go.mod: %s is direct, but nothing imports it", f[0])
		}
	}
}
