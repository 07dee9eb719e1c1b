package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	script := l.WriteFile("script", "true\n")
	tests := []struct {
		name    string
		command []string
		want    int
	}{
		{"success", []string{"true"}, 0},
		{"failure", []string{"false"}, 1},
		{"number", []string{"sh", "-c", "exit 42"}, 42},
		{"own failure's number", []string{"sh", "-c", "exit 125"}, 125},
		{"SIGKILL", []string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		{"SIGTERM", []string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
		{"SIGSEGV", []string{"sh", "-c", "kill -SEGV $$"}, 128 + 11},
		{"not found", []string{"no-such-command"}, 127},
		{"no such path", []string{"/no/such/command"}, 127},
		{"not executable", []string{script}, 126},
		{"directory", []string{"/"}, 126},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := guest(l.With(t), nil, tt.command...).MustStart()
			if got := c.Status(); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

// TestNoCommand runs the user's shell.
func TestNoCommand(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := taproot(l, "run")
	c.Env = append(c.Env, "SHELL=/bin/sh")
	c.Stdin = strings.NewReader("echo from $0; exit 5\n")
	c.MustStart()
	if got := c.Status(); got != 5 {
		t.Errorf("status: got %d, want 5", got)
	}
	wantContains(t, "output", c.Out(), "from ")
}

// TestArguments passes words on as they are.
func TestArguments(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	got := taproot(l, "run", "printf", "<%s>", "a b", "", "-v", "--", "*").MustRun()
	wantText(t, "arguments", got, "<a b><><-v><--><*>")
}

func TestSignals(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	signals := map[string]syscall.Signal{
		"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT,
		"WINCH": syscall.SIGWINCH, "USR1": syscall.SIGUSR1,
	}
	for name, signal := range signals {
		t.Run(name, func(t *testing.T) {
			l := l.With(t)
			c := guest(l, nil, "sh", "-c",
				"trap 'echo got; exit 7' "+name+"; echo ready; while :; do sleep 0.05; done").MustStart()
			l.Eventually("the command is ready", func() bool { return strings.Contains(c.Out(), "ready") })
			if err := c.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if got := c.Status(); got != 7 {
				t.Errorf("status: got %d, want 7", got)
			}
			wantText(t, "output", c.Out(), "ready\ngot")
		})
	}
	for _, name := range []string{"INT", "TERM", "HUP", "QUIT"} {
		t.Run(name+" by default", func(t *testing.T) {
			l := l.With(t)
			c := guest(l, nil, "sh", "-c", "echo ready; exec sleep 100").MustStart()
			l.Eventually("the command is ready", func() bool { return strings.Contains(c.Out(), "ready") })
			if err := c.Signal(signals[name]); err != nil {
				t.Fatal(err)
			}
			if got, want := c.Status(), 128+int(signals[name]); got != want {
				t.Errorf("status: got %d, want %d", got, want)
			}
		})
	}
}

// TestStop stops and continues the command by signals to taproot.
func TestStop(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := guest(l, nil, "sleep", "98765")
	// As a shell starts it: a group of its own, with a parent in its session
	// that could continue it. Others are not stopped by SIGTSTP.
	c.SysProcAttr.Setpgid = true
	c.MustStart()
	state := func() byte { return process(t, l, "sleep 98765").State }
	l.Eventually("the command sleeps", func() bool { return state() == 'S' })
	if err := c.Signal(syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	l.Eventually("the command is stopped", func() bool { return state() == 'T' })
	// A shell, too, knows that taproot has stopped before it continues it.
	l.Eventually("taproot is stopped", func() bool {
		return slices.ContainsFunc(l.Processes(), func(p lab.Process) bool { return p.PID == c.Process.Pid && p.State == 'T' })
	})
	if err := c.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l.Eventually("the command continues", func() bool { return state() == 'S' })
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := c.Status(); got != 128+15 {
		t.Errorf("status: got %d, want %d", got, 128+15)
	}
}

func TestDescriptors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	wantText(t, "descriptors", guestProgram(l, nil, "fds").MustRun(), "0 1 2")
	r, _ := pipe(t)
	c := guestProgram(l, nil, "fds")
	c.ExtraFiles = []*os.File{r}
	wantText(t, "descriptors with the caller's", c.MustRun(), "0 1 2 3")
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	work := filepath.Join(l.Dir, "work")
	if err := os.Mkdir(work, 0o777); err != nil {
		t.Fatal(err)
	}
	c := guest(l, nil, "sh", "-c", "pwd; echo $WORD; env | grep -i taproot_stage || true")
	c.Dir = work
	c.Env = append(c.Env, "WORD=a word")
	wantText(t, "directory and variable", c.MustRun(), work+"\na word")
}

// TestNoZombies looks at the processes of a guest that has started and ended
// many: none may wait to be reaped.
func TestNoZombies(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := newShell(t, l)
	for range 20 {
		s.must("(sleep 0 & exec true)")
	}
	l.Eventually("no zombies", func() bool {
		for _, p := range lab.Below(s.Process.Pid) {
			if p.State == 'Z' {
				return false
			}
		}
		return true
	})
}

// TestDaemon: what the command leaves running in the background ends with the
// namespace or lives on by itself, but taproot does not wait for it.
func TestDaemon(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := guest(l, []string{"--pid"}, "sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 & echo started")
	wantText(t, "output", c.MustRun(), "started")
	l.Eventually("the background process is gone", func() bool { return len(l.Processes()) == 0 })
}
