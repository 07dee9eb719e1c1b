package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childName is argv[0] of a test binary that is a child: it takes a step and
// then does what its first argument says. A step cannot be undone, so none is
// taken in the process of the tests.
const childName = "sandbox-child"

func TestMain(m *testing.M) {
	if os.Args[0] != childName {
		os.Exit(m.Run())
	}
	if err := children()[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// children returns what a child may be told.
func children() map[string]func(args []string) error {
	return map[string]func([]string) error{
		"seccomp": doSeccomp,
		"forgo":   doForgo,
		"call":    doCall,
		"clone3":  doClone3,
		"files":   doFiles,
		"open":    doOpen,
		"outside": doOutside,
		"both":    doBoth,
	}
}

// child returns the command of a child, which runs the test binary at path.
func child(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path)
	cmd.Args = append([]string{childName}, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// succeed runs a child that must not fail.
func succeed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// self is the binary that runs.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// static is the test binary without cgo, as taproot is built: this one, or if
// it has cgo, for the race detector's sake, another.
func static(t *testing.T) string {
	t.Helper()
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); errno != unix.ENOTSUP {
		return self(t)
	}
	path := filepath.Join(t.TempDir(), "test")
	build := exec.Command("go", "test", "-c", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	return path
}
