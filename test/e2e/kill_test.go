package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// engineName is the first word of the engine's command line.
const engineName = "taproot-engine"

// waitGone waits until nothing runs because of the laboratory, and returns
// what does not go. An orphan may be overlooked once, on its way to its new
// parent.
func waitGone(l *lab.Lab) []lab.Process {
	deadline := time.Now().Add(lab.Patience)
	for empty := 0; ; time.Sleep(time.Millisecond) {
		left := l.Processes()
		if empty++; len(left) > 0 {
			empty = 0
		}
		if empty == 2 || time.Now().After(deadline) {
			return left
		}
	}
}

// TestKill kills each of the processes with SIGKILL at 20 random moments of its
// life.
func TestKill(t *testing.T) {
	tests := []struct {
		victim string
		life   time.Duration // about how long it lives
		is     func(c *lab.Cmd, p lab.Process) bool
	}{
		{"supervisor", 150 * time.Millisecond, func(c *lab.Cmd, p lab.Process) bool { return p.PID == c.Process.Pid }},
		{"guard", 120 * time.Millisecond, func(_ *lab.Cmd, p lab.Process) bool { return p.Name == "taproot-guard" }},
		{"stage", 10 * time.Millisecond, func(_ *lab.Cmd, p lab.Process) bool { return strings.HasPrefix(p.Args, "taproot-stage") }},
		{"engine", 150 * time.Millisecond, func(_ *lab.Cmd, p lab.Process) bool { return strings.HasPrefix(p.Args, engineName) }},
		{"command", 100 * time.Millisecond, func(_ *lab.Cmd, p lab.Process) bool { return p.Name == "sh" }},
	}
	for _, tt := range tests {
		t.Run(tt.victim, func(t *testing.T) {
			l := newLab(t)
			before, met, round := mounts(t, l), 0, 0
			// Some lives are over before their moment comes.
			for ; met < 20 && round < 100; round++ {
				c := guest(l, nil, "sh", "-c", "sleep 0.1; echo done").MustStart()
				is := func(p lab.Process) bool { return tt.is(c, p) }
				l.Eventually("its life begins", func() bool { return slices.ContainsFunc(l.Processes(), is) || ended(c) })
				<-time.After(rand.N(tt.life))
				if all := l.Processes(); slices.ContainsFunc(all, is) {
					met++
					syscall.Kill(all[slices.IndexFunc(all, is)].PID, syscall.SIGKILL)
				}
				wantEnd(t, l, c, round)
				if d := difference(mounts(t, l), before); d != "" {
					t.Fatalf("round %d: left behind: mounts:\n%s", round, d)
				}
			}
			t.Logf("%d rounds", round)
			if met < 20 {
				t.Errorf("killed %d times, want 20", met)
			}
		})
	}
}

// ended reports whether a command has ended.
func ended(c *lab.Cmd) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// wantEnd waits for the end of a guest and of everything that belongs to it.
func wantEnd(t *testing.T, l *lab.Lab, c *lab.Cmd, round int) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(lab.Patience):
		t.Fatalf("round %d: taproot does not end: %v", round, l.Processes())
	}
	if left := waitGone(l); len(left) > 0 {
		t.Fatalf("round %d: left behind: %v", round, left)
	}
}

// TestEngineKilled: the supervisor starts another engine on the same device;
// old connections are reset, new ones work.
func TestEngineKilled(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	port := serveTCP(t, l.Outside, echo)
	address := join(lab.Outside4, port)
	s := newShell(t, l)
	// The old connection is held by a process beside the shell.
	s.must("mkfifo " + l.Dir + "/in")
	s.must("(" + program(l, "hold", address) + " <" + l.Dir + "/in >" + l.Dir + "/out 2>&1 &)")
	s.must("exec 9>" + l.Dir + "/in")
	l.Eventually("the old connection is there", func() bool {
		out, _ := s.do("cat " + l.Dir + "/out")
		return strings.Contains(out, "connected")
	})
	for range 3 {
		old := process(t, l, engineName)
		if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		l.Eventually("another engine", func() bool { return process(t, l, engineName).PID != old.PID })
		wantText(t, "a new connection", s.must(program(l, "connect", address)), "connected")
	}
	s.must("echo >&9")
	l.Eventually("the old connection is reset", func() bool {
		out, _ := s.do("cat " + l.Dir + "/out")
		return strings.Contains(out, "ECONNRESET")
	})
	fmt.Fprintln(s.in, "exit 3")
	if got := s.Status(); got != 3 {
		t.Errorf("status: got %d, want 3", got)
	}
}
