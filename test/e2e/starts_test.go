package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

// starts is how often TestStarts starts: a few times, or as TAPROOT_STARTS says.
func starts(t *testing.T) int {
	t.Helper()
	text := os.Getenv("TAPROOT_STARTS")
	if text == "" {
		return 20
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("TAPROOT_STARTS: %v", err)
	}
	return n
}

// traces are what a start may leave behind, each with how much there is.
func traces(t *testing.T, l *lab.Lab, n *lab.Namespace) map[string]string {
	t.Helper()
	found := map[string]string{
		"mounts":    mounts(t, l),
		"links":     fmt.Sprint(n.Links()),
		"rules":     n.Command("ip", "rule").MustRun() + n.Command("ip", "-6", "rule").MustRun(),
		"routes":    n.Command("ip", "route", "show", "table", "all").MustRun(),
		"files":     fmt.Sprint(entries(t, tmpDir(l))),
		"processes": fmt.Sprint(len(l.Processes())),
	}
	found["ruleset"] = n.Command("nft", "list", "ruleset").MustRun()
	return found
}

// wantTraces wants the same as before.
func wantTraces(t *testing.T, got, want map[string]string) {
	t.Helper()
	for what, before := range want {
		if got[what] != before {
			t.Errorf("%s: got\n%s\nwant\n%s", what, got[what], before)
		}
	}
}

// TestStarts starts and ends guests one after the other, by all ends that there are.
// The host is as it was afterwards: processes, mounts, links, rules and files are
// counted.
func TestStarts(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "ip", "nft")
	l := newLab(t)
	ends := []struct {
		command string
		signal  syscall.Signal
		status  int
	}{
		{"true", 0, 0},
		{"exit 3", 0, 3},
		{"kill -KILL $$", 0, 128 + 9},
		{"echo ready; exec sleep 1000", syscall.SIGTERM, 128 + 15},
		{"echo ready; exec sleep 1000", syscall.SIGKILL, 128 + 9},
	}
	before := traces(t, l, l.Host)
	for i := range starts(t) {
		end := ends[i%len(ends)]
		c := guest(l, []string{"-p", "8080:80"}, "sh", "-c", end.command).MustStart()
		if end.signal != 0 {
			l.Eventually("it runs", func() bool { return strings.Contains(c.Out(), "ready") })
			syscall.Kill(c.Process.Pid, end.signal)
		}
		if got := c.Status(); got != end.status {
			t.Errorf("start %d, %s: status: got %d, want %d", i, end.command, got, end.status)
		}
		if left := waitGone(l); len(left) > 0 {
			t.Fatalf("start %d, %s: left behind: %v", i, end.command, left)
		}
	}
	sweepSockets(t, l)
	wantTraces(t, traces(t, l, l.Host), before)
}

// TestAttachments attaches to one namespace again and again, with published ports and
// the shortcut, and ends the attachment by a signal, politely or not. The namespace is
// as it was after the polite ones, and usable after all.
func TestAttachments(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "ip", "nft")
	h := newHost(t)
	c := h.container()
	port := serveTCP(t, h.Outside, echo)
	c.SetUp("lo") // which stays so
	before := traces(t, h.Lab, c.Namespace)
	for i := range starts(t) {
		a := h.command(h.TaprootPath(), "attach", "-p", "8080:80", fmt.Sprint(c.pid))
		a.Env = append(a.Env, "XDG_RUNTIME_DIR="+runtimeDir(h.Lab))
		a.MustStart()
		h.Eventually("the namespace has a network", func() bool {
			return c.Namespace.Program("connect", join(lab.Outside4, port)).MustRun() == "connected\n"
		})
		signal := syscall.SIGTERM
		if i%4 == 1 { // what it leaves the next one takes away
			signal = syscall.SIGKILL
		}
		syscall.Kill(a.Process.Pid, signal)
		a.Status()
		// What is killed with it ends a moment later, and has the ports until then.
		h.Eventually("its other processes are gone", func() bool {
			return !slices.ContainsFunc(h.Processes(), func(p lab.Process) bool { return strings.HasPrefix(p.Args, "taproot-") })
		})
		if signal == syscall.SIGTERM {
			h.Eventually("the namespace is as it was", func() bool { return maps.Equal(traces(t, h.Lab, c.Namespace), before) })
		}
	}
	wantTraces(t, traces(t, h.Lab, c.Namespace), before)
}
