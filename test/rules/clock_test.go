package rules

import (
	"regexp"
	"strings"
	"testing"
)

// wallClock are the uses of the clock that may be set, and so may jump: for people and
// files only. Nothing that waits looks at it: what is compared are times of time.Now,
// which have the other clock as well. (Of a flow that is handed over the age is lost so.)
func wallClock() map[string]string {
	return map[string]string{
		"stack/link/capture.go":              "time stamps of a capture",
		"internal/api/metrics.go":            "when the instance was started",
		"cmd/internal/front/slirp/config.go": aPast,
		"internal/socket/connect.go":         aPast,
		"internal/control/server.go":         aPast,
		"tap/device.go":                      aPast,
	}
}

// aPast is why a deadline may be one of the wall clock.
const aPast = "a deadline that was always over"

// TestWallClock: the machine's clock may be set to anything at any moment. It cannot be
// another one in a namespace, so no test sets it.
func TestWallClock(t *testing.T) {
	wall := regexp.MustCompile(`\btime\.(Unix(Milli|Micro)?|Date|Parse(InLocation)?)\(|\.Unix(Nano|Milli|Micro)?\(\)|\.Round\(0\)|CLOCK_REALTIME\b|\bunix\.(Gettimeofday|Time)\(`)
	used := make(map[string]bool)
	for _, s := range goFiles(t) {
		if strings.HasPrefix(s.path, "test/") {
			continue
		}
		if m := wall.FindString(s.text); m != "" {
			used[s.path] = true
			if wallClock()[s.path] == "" {
				t.Errorf("%s: %q uses the clock that may jump", s.path, m)
			}
		}
	}
	for path := range wallClock() {
		if !used[path] {
			t.Errorf("%s: does not use the clock that may jump any more", path)
		}
	}
}
