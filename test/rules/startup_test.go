package rules

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A work is what the initialisation of packages did.
type work struct {
	packages int // that have something to initialise
	allocs   int
	bytes    int
}

// maxStartup is the most that all packages together may do before main runs:
// what took 1.5 ms where 103 packages, 416 allocations and 115 KiB took 0.95.
// There are three processes of taproot for each container.
func maxStartup() work { return work{packages: 160, allocs: 650, bytes: 180 << 10} }

// ordinary is what any one package may do.
func ordinary() work { return work{allocs: 20, bytes: 2 << 10} }

// heavy lists the packages that may do more than is ordinary, with room for a
// fifth on top of what they did when they came in. Whoever adds one pays for it
// with each process.
func heavy() map[string]work {
	return map[string]work{
		"gvisor.dev/gvisor/pkg/log":                       {allocs: 64, bytes: 9 << 10},
		"gvisor.dev/gvisor/pkg/rand":                      {allocs: 4, bytes: 5 << 10},
		"gvisor.dev/gvisor/pkg/state":                     {allocs: 11, bytes: 3 << 10},
		"gvisor.dev/gvisor/pkg/tcpip":                     {allocs: 9, bytes: 20 << 10},
		"gvisor.dev/gvisor/pkg/tcpip/network/internal/ip": {allocs: 3, bytes: 22 << 10},
		"compress/flate":                                  {allocs: 9, bytes: 5 << 10}, // this and the next four: net/http, decision 026
		"crypto/internal/fips140/rsa":                     {allocs: 29, bytes: 4 << 10},
		"crypto/tls":                                      {allocs: 16, bytes: 3 << 10},
		"net/http":                                        {allocs: 60, bytes: 6 << 10},
		"vendor/golang.org/x/net/http2/hpack":             {allocs: 10, bytes: 9 << 10},
		"github.com/fsnotify/fsnotify":                    {allocs: 11, bytes: 5 << 10},
		"github.com/insomniacslk/dhcp/dhcpv4":             {allocs: 17, bytes: 13 << 10},
		"github.com/insomniacslk/dhcp/dhcpv6":             {allocs: 17, bytes: 10 << 10},
		"github.com/insomniacslk/dhcp/iana":               {allocs: 17, bytes: 6 << 10},
		"github.com/vishvananda/netlink":                  {allocs: 50, bytes: 7 << 10},
		"net":                                             {allocs: 28, bytes: 3 << 10},
		"net/netip":                                       {allocs: 24, bytes: 2 << 10},
		"regexp/syntax":                                   {allocs: 8, bytes: 3 << 10},
		"unicode":                                         {allocs: 20, bytes: 14 << 10},
	}
}

// TestStartup counts the work of package initialisation as the runtime reports
// it, and not its time, which is another on each machine.
func TestStartup(t *testing.T) {
	all := initialised(t)
	var sum work
	for name, w := range all {
		sum.packages += w.packages
		sum.allocs += w.allocs
		sum.bytes += w.bytes
		limit, known := heavy()[name]
		if !known {
			limit = ordinary()
		}
		if w.allocs > limit.allocs || w.bytes > limit.bytes {
			t.Errorf("package %s: %d allocations and %d bytes at start, want at most %d and %d", name, w.allocs, w.bytes, limit.allocs, limit.bytes)
		}
	}
	if limit := maxStartup(); sum.packages > limit.packages || sum.allocs > limit.allocs || sum.bytes > limit.bytes {
		t.Errorf("%d packages with %d allocations and %d bytes at start, want at most %d, %d and %d; the largest are\n%s",
			sum.packages, sum.allocs, sum.bytes, limit.packages, limit.allocs, limit.bytes, largest(all))
	}
	for _, name := range slices.Sorted(maps.Keys(heavy())) {
		if _, ok := all[name]; !ok {
			t.Errorf("package %s: in the table of heavy ones, and not in the program any more", name)
		}
	}
}

// largest names the packages that do most.
func largest(all map[string]work) string {
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int { return all[b].bytes - all[a].bytes })
	var text strings.Builder
	for _, name := range names[:min(10, len(names))] {
		fmt.Fprintf(&text, "%7d bytes, %3d allocations: %s\n", all[name].bytes, all[name].allocs, name)
	}
	return text.String()
}

// initialised builds taproot as make does, starts it and returns what each
// package did.
func initialised(t *testing.T) map[string]work {
	t.Helper()
	program := filepath.Join(t.TempDir(), "taproot")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./cmd/taproot")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	run := exec.Command(program, "version")
	run.Env = []string{"GODEBUG=inittrace=1"}
	var trace strings.Builder
	run.Stderr = &trace
	if err := run.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", run.Args, err, trace.String())
	}
	all := map[string]work{}
	for line := range strings.Lines(trace.String()) {
		var name string
		var at, clock float64
		w := work{packages: 1}
		// The format of package runtime's GODEBUG variable inittrace.
		if _, err := fmt.Sscanf(line, "init %s @%f ms, %f ms clock, %d bytes, %d allocs", &name, &at, &clock, &w.bytes, &w.allocs); err != nil {
			t.Fatalf("trace %q: %v", line, err)
		}
		all[name] = w
	}
	if len(all) == 0 {
		t.Fatal("the runtime reported no package")
	}
	return all
}
