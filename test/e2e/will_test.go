package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// executorName is what the process is called that undoes what a killed supervisor
// has done.
const executorName = "taproot-will"

// An owner serves the network of a process that is not its child, under one of the
// program's names.
type owner struct {
	name string

	// serve starts it with the shortcut and returns the supervisor's process id when
	// it is ready.
	serve func(t *testing.T, l *lab.Lab, session *lab.Session, pid string) int
}

// owners returns one for each name.
func owners() []owner {
	named := func(l *lab.Lab, session *lab.Session, name string, args ...string) *lab.Cmd {
		path := filepath.Join(l.Dir, name)
		_ = os.Symlink(l.TaprootPath(), path) // it may be there
		c := session.Command(path, args...)
		c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l), "TAPROOT_SHORTCUT=on")
		c.SysProcAttr.Setsid = true // a process group that can be killed
		return c
	}
	ready := func(t *testing.T, c *lab.Cmd) int {
		t.Helper()
		r, w := pipe(t)
		c.ExtraFiles = []*os.File{w}
		c.MustStart()
		w.Close()
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatalf("%v: not ready: %v", c.Args, err)
		}
		return c.Process.Pid
	}
	return []owner{
		{"taproot", func(t *testing.T, l *lab.Lab, session *lab.Session, pid string) int {
			return ready(t, named(l, session, "taproot", "attach", "--ready-fd=3", pid))
		}},
		{"slirp4netns", func(t *testing.T, l *lab.Lab, session *lab.Session, pid string) int {
			return ready(t, named(l, session, "slirp4netns", "--configure", "--mtu=65520", "--ready-fd=3", pid, "tap0"))
		}},
		{"pasta", func(t *testing.T, l *lab.Lab, session *lab.Session, pid string) int {
			file := filepath.Join(tmpDir(l), "pid")
			t.Cleanup(func() { os.Remove(file) })
			named(l, session, "pasta", "--config-net", "--quiet", "-P", file, pid).MustRun()
			return pidFile(t, file)
		}},
	}
}

// everything is all that a shortcut can change in a namespace, and that the kernel
// changes with it.
const everything = footprint + `; ip -o link; ip -o addr; grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf; true`

// TestKilledLeavesNothing kills the supervisor of a namespace that lives longer, alone
// or with its whole process group. Everything in there is as it was before at once,
// and serving it again works.
func TestKilledLeavesNothing(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "nft", "ip", "ss", "unshare", "nsenter")
	for _, o := range owners() {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			needTProxy(t, l)
			session := l.Session()
			s := slirp{Lab: l, session: session}
			guest := s.target(t)
			n := guest.net
			n.SetUp("lo")
			// A table of the guest's, for which there are more rules and another sysctl.
			n.Command("nft", "add", "table", "ip", "own").MustRun()
			look := func() string { return sorted(n.Command("sh", "-c", everything).MustRun()) }
			before := look()
			for _, group := range []bool{false, true} {
				supervisor := o.serve(t, l, session, guest.pid())
				if now := look(); !strings.Contains(now, "table ip taproot") || now == before {
					t.Fatalf("got %s, want rules of ours", difference(now, before))
				}
				p := newPlayIn(t, l, n)
				l.Eventually("connections take the shortcut", func() bool { return p.way() == byShortcut })
				victim := supervisor
				if group {
					victim = -supervisor
				}
				if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				killed := time.Now()
				l.Eventually("everything is as it was", func() bool { return look() == before || gaveUp(t, killed, look, before) })
				l.Eventually("no process is left", func() bool {
					return !slices.ContainsFunc(l.Processes(), func(p lab.Process) bool {
						return p.PID == supervisor || p.Name == executorName || strings.HasPrefix(p.Args, engineName)
					})
				})
				t.Logf("process group %v: as it was within %v", group, time.Since(killed).Round(time.Millisecond))
			}
		})
	}
}

// gaveUp says, shortly before Patience ends, how the namespace differs.
func gaveUp(t *testing.T, since time.Time, look func() string, before string) bool {
	if time.Since(since) < lab.Patience*9/10 {
		return false
	}
	t.Errorf("left behind:\n%s", difference(look(), before))
	return true
}

// sorted returns the lines of a text in order.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// killExecutor kills the process that would undo what the supervisor does.
func killExecutor(t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := syscall.Kill(process(t, l, executorName).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
