package tap_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/probe"
	"taproot/test/lab"
)

// namespaceEnv is set in the test binary that runs in namespaces of its own.
const namespaceEnv = "TAPROOT_TAP_NAMESPACE"

// stranger is a user id without an account, that owns nothing.
const stranger = 1_879_048_192

// inNamespace returns true in a process of an ordinary user that has a user, a
// mount and a network namespace of its own. In any other process it runs the
// test again in such a one and returns false.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != "" {
		return true
	}
	lab.Need(t, lab.TUN)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	// The race detector would wait a second at the end of each process.
	cmd.Env = append(os.Environ(), namespaceEnv+"=1", "GORACE=atexit_sleep_ms=0")
	id := os.Getuid()
	if id == 0 {
		id = stranger
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: id, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: max(id, os.Getgid()), Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
	out, err := start(t, cmd)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		t.Errorf("in a namespace: %v\n%s", err, out)
	case err != nil:
		lacks(t, &probe.Unsupported{Feature: string(lab.NetNS), Err: err})
	}
	return false
}

// start runs cmd, for root with a device node that everybody may open, and
// returns its output.
func start(t *testing.T, cmd *exec.Cmd) ([]byte, error) {
	t.Helper()
	if os.Getuid() != 0 {
		return cmd.CombinedOutput()
	}
	var out []byte
	dir, done := t.TempDir(), make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread's mounts end with it
		if err := publicTUN(dir); err != nil {
			done <- &probe.Unsupported{Feature: string(lab.TUN), Err: err}
			return
		}
		var err error
		out, err = cmd.CombinedOutput()
		done <- err
	}()
	err := <-done
	var u *probe.Unsupported
	if errors.As(err, &u) {
		lacks(t, u)
	}
	return out, err
}

// publicTUN moves the calling thread to a mount namespace of its own, in which
// everybody may open /dev/net/tun.
func publicTUN(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	node := filepath.Join(dir, "tun")
	return errors.Join(
		unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), // Linux devices.txt: 10 char, 200 tun
		unix.Chmod(node, 0o666),
		unix.Mount(node, "/dev/net/tun", "", unix.MS_BIND, ""),
	)
}

// lacks skips the test, or fails it if TAPROOT_MUST names the feature.
func lacks(t *testing.T, u *probe.Unsupported) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("TAPROOT_MUST"), ","), u.Feature) {
		t.Fatal(u)
	}
	t.Skip(u)
}
