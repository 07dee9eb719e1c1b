package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// engineName is the first word of the engine's command line.
const engineName = "taproot-engine"

// waitGone waits until nothing runs because of the laboratory, and returns
// what does not go.
func waitGone(l *lab.Lab) []lab.Process {
	deadline := time.Now().Add(lab.Patience)
	for {
		left := l.Processes()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(time.Millisecond)
	}
}

// TestKill kills each of the processes with SIGKILL at 20 random moments of
// starting, running and ending. What is left is found by newLab's check.
func TestKill(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	l := newLab(t)
	before := mounts(t, l)
	for _, victim := range []string{"taproot", "taproot-stage", engineName, "sh"} {
		for round := range 20 {
			c := guest(l, nil, "sh", "-c", "sleep 0.1; echo done").MustStart()
			moment := time.NewTimer(time.Duration(random.Int64N(int64(150 * time.Millisecond))))
			<-moment.C
			for _, p := range l.Processes() {
				if strings.HasPrefix(baseName(p.Args), victim) {
					syscall.Kill(p.PID, syscall.SIGKILL)
					break
				}
			}
			select {
			case <-c.Done():
			case <-time.After(lab.Patience):
				t.Fatalf("%s killed, round %d: taproot does not end: %v", victim, round, l.Processes())
			}
			if left := waitGone(l); len(left) > 0 {
				t.Fatalf("%s killed, round %d: left behind: %v", victim, round, left)
			}
			if d := difference(mounts(t, l), before); d != "" {
				t.Fatalf("%s killed, round %d: left behind: mounts:\n%s", victim, round, d)
			}
		}
	}
}

// baseName is the last part of a command line's first word, with the rest.
func baseName(args string) string {
	first, _, _ := strings.Cut(args, " ")
	return args[strings.LastIndexByte(first, '/')+1:]
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
