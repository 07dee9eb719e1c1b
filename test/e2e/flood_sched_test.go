package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"taproot/test/lab"
)

// A share is what a process had of the processors, and how long it waited for one
// though it could have run.
type share struct{ ran, waited time.Duration }

// shares returns those of all processes of the laboratory and of the test itself,
// which is the servers, by what they are (proc(5), /proc/PID/task/TID/schedstat).
func shares(l *lab.Lab) map[string]share {
	all := map[string]share{"servers": shareOf(os.Getpid())}
	for _, p := range l.Processes() {
		words := strings.Fields(p.Args)
		name := words[0]
		if len(words) > 2 && filepath.Base(name) == "test" {
			name = words[2]
		}
		s, had := shareOf(p.PID), all[filepath.Base(name)]
		all[filepath.Base(name)] = share{had.ran + s.ran, had.waited + s.waited}
	}
	return all
}

// shareOf adds up a process's threads.
func shareOf(pid int) share {
	var s share
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var ran, waited time.Duration
		if _, err := fmt.Sscan(string(text), &ran, &waited); err == nil {
			s.ran, s.waited = s.ran+ran, s.waited+waited
		}
	}
	return s
}

// between says who had how much of a processor from one time to another.
func between(before, after map[string]share, length time.Duration) string {
	type line struct {
		name string
		share
	}
	var list []line
	for name, a := range after {
		if b, ok := before[name]; ok && a.ran-b.ran > length/100 {
			list = append(list, line{name, share{a.ran - b.ran, a.waited - b.waited}})
		}
	}
	slices.SortFunc(list, func(a, b line) int { return cmp.Compare(b.ran, a.ran) })
	var b strings.Builder
	for _, l := range list {
		fmt.Fprintf(&b, " %s %.2f+%.2f", l.name, l.ran.Seconds()/length.Seconds(), l.waited.Seconds()/length.Seconds())
	}
	return b.String()
}
