package userns

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// levelEnv says which process a test binary is that a test has started again:
// levelUser as an ordinary user, levelRoot as root of a user namespace of that
// user, with a mount namespace.
const (
	levelEnv  = "TAPROOT_TEST_LEVEL"
	levelUser = "user"
	levelRoot = "root"
)

// asUser returns true in a process of an ordinary user. In one of root it runs
// the test again as such a user and returns false.
func asUser(t *testing.T) bool {
	t.Helper()
	user := ordinary(t)
	if !user.root {
		return true
	}
	again(t, levelUser, &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(user.uid), Gid: uint32(user.gid)},
	})
	return false
}

// asNamespaceRoot returns true in a process that is root of a user namespace of
// an ordinary user, and has private mounts. In any other it runs the test again
// as such a one and returns false.
func asNamespaceRoot(t *testing.T) bool {
	t.Helper()
	if os.Getenv(levelEnv) == levelRoot {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if asUser(t) {
		attr := rootTarget()
		attr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
		again(t, levelRoot, attr)
	}
	return false
}

// again runs the test in a process of its own.
func again(t *testing.T, level string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command(selfExe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	// The race detector would wait a second at the end of each process.
	cmd.Env = append(os.Environ(), levelEnv+"="+level, "GORACE=atexit_sleep_ms=0")
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("as %s: %v\n%s", level, err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
}

// A testTarget is a process in namespaces of its own that answers what it sees.
type testTarget struct {
	*exec.Cmd
	pid int
	in  io.Writer
	out *bufio.Reader
}

// newTarget starts a guest program, of those that answer, with the attributes,
// and ends it with the test.
func newTarget(t testing.TB, program string, attr *syscall.SysProcAttr) *testTarget {
	t.Helper()
	cmd := exec.Command(selfExe, guestArg, program)
	cmd.SysProcAttr = attr
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p := &testTarget{Cmd: cmd, pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("target: got %q and error %v", line, err)
	}
	return p
}

// facts returns what the target sees now.
func (p *testTarget) facts(t testing.TB) (f facts) {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
	b, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// end kills the target and reaps it.
func (p *testTarget) end() {
	p.Process.Kill()
	p.Cmd.Wait()
}

// rootTarget is the attribute of a process that is root in a user and a network
// namespace.
func rootTarget() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: singleMap(0, os.Getuid()),
		GidMappings: singleMap(0, os.Getgid()),
	}
}

// netTarget is the attribute of a process with a network namespace only.
func netTarget() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
}

// openTarget opens a target, or fails the test.
func openTarget(t testing.TB, target Target) *Namespace {
	t.Helper()
	n, err := OpenTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// mountNamespace mounts a process's network namespace on a new file, as
// ip-netns(8) does, and returns the path.
func mountNamespace(t testing.TB, pid int) string {
	t.Helper()
	path := t.TempDir() + "/netns"
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(namespacePath(pid, "net"), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(path, unix.MNT_DETACH) == nil {
		}
	})
	return path
}

// belowTarget is the attribute of a process in a new user namespace, but in a
// network namespace of ours.
func belowTarget() *syscall.SysProcAttr {
	attr := rootTarget()
	attr.Cloneflags, attr.Unshareflags = unix.CLONE_NEWNET, unix.CLONE_NEWUSER
	return attr
}

func TestOpenTargetErrors(t *testing.T) {
	if !asUser(t) {
		return
	}
	dead := newTarget(t, "answer", nil)
	dead.end()
	hidden := newTarget(t, "hidden", nil)
	p := newTarget(t, "answer", rootTarget())
	fifo := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	hasHint := []string{"", "run as", "that is a thread"}
	const none, runAs, thread = 0, 1, 2
	for _, tt := range []struct {
		name   string
		target Target
		want   string
		hint   int
	}{
		{"nothing", Target{}, "want a process or a path", none},
		{"both", Target{PID: 1, NetNS: "/"}, "want a process or a path", none},
		{"negative", Target{PID: -1}, "invalid argument", none},
		{"dead", Target{PID: dead.pid}, "no such process", none},
		{"dead by path", Target{NetNS: namespacePath(dead.pid, "net")}, "no such process", none},
		{"another's", Target{PID: 1}, "process 1 belongs to user 0: open /proc/1/ns/net: permission denied", runAs},
		{"another's by path", Target{NetNS: "/proc/1/ns/net"}, "process 1 belongs to user 0", runAs},
		{"hidden", Target{PID: hidden.pid}, "not dumpable", runAs},
		{"thread", Target{PID: threadOf(t)}, "", thread},
		{"no file", Target{NetNS: "/run/netns/nothing"}, "open /run/netns/nothing: no such file", none},
		{"file", Target{NetNS: "/etc/passwd"}, "/etc/passwd: not a namespace, want one of kind net", none},
		{"directory", Target{NetNS: "/"}, "/: not a namespace", none},
		{"fifo", Target{NetNS: fifo}, "not a namespace", none},
		{"device", Target{NetNS: "/dev/null"}, "not a namespace", none},
		{"other kind", Target{NetNS: "/proc/self/ns/mnt"}, "namespace of kind mnt, want net", none},
		{"our own", Target{NetNS: "/proc/self/ns/net"}, "network namespace is the one we are in", none},
		{"user of other kind", Target{PID: p.pid, UserNS: "/proc/self/ns/net"}, "namespace of kind net, want user", none},
		{"hidden by path", Target{NetNS: namespacePath(hidden.pid, "net")}, "not dumpable", runAs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if owner, err := processUID(1); strings.HasPrefix(tt.name, "another's") && (err != nil || owner != 0) {
				t.Skip("process 1 is not root's")
			}
			n, err := OpenTarget(tt.target)
			if err == nil {
				n.Close()
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want %q in it", err, tt.want)
			}
			var h interface{ Hint() string }
			switch hinted := errors.As(err, &h); {
			case hinted != (tt.hint != none):
				t.Errorf("hint: got %v, want %v", hinted, tt.hint != none)
			case hinted && !strings.Contains(h.Hint(), hasHint[tt.hint]):
				t.Errorf("hint: got %q, want %q in it", h.Hint(), hasHint[tt.hint])
			}
		})
	}
}

// threadOf returns the id of a thread of ours that is no process.
func threadOf(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/task")
	if err != nil || len(names) < 2 {
		t.Fatalf("threads: got %d and error %v", len(names), err)
	}
	id, err := strconv.Atoi(names[len(names)-1].Name())
	if err != nil {
		t.Fatal(err)
	}
	return id
}
