package lab

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// wideBase is where the ids of L start when real root makes it: numbers that
// no account has and no file belongs to.
const wideBase = 1_879_048_192

// wideIDs is how many ids L has then.
const wideIDs = 65536

// startInit starts init as root of a new user namespace, L, that has many ids
// or only the caller's. The calling thread must be locked and is not fit for
// anything else afterwards.
func startInit(dir string, wide bool) (*exec.Cmd, error) {
	s := stage{Name: "init", Dir: dir, Wide: wide}
	if s.Wide {
		if err := privateTUN(dir); err != nil {
			fmt.Fprintln(os.Stderr, "lab: no private /dev/net/tun:", err)
		}
	}
	cmd := itself(s)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:   syscall.SIGKILL,
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Credential:  &syscall.Credential{NoSetGroups: true},
	}
	if s.Wide {
		wide := []syscall.SysProcIDMap{{ContainerID: 0, HostID: wideBase, Size: wideIDs}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = wide, wide
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.Credential.NoSetGroups = false
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	return cmd, nil
}

// privateTUN moves the calling thread to a mount namespace of its own, in
// which everybody may open /dev/net/tun. Only real root can do that.
func privateTUN(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	at := filepath.Join(dir, "tmp")
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", at, err)
	}
	node := filepath.Join(at, "tun")
	return errors.Join(
		unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), // Linux devices.txt: 10 char, 200 tun
		unix.Chmod(node, 0o666),
		unix.Mount(node, "/dev/net/tun", "", unix.MS_BIND, ""),
	)
}

// inner is init: root of L. It makes the mounts that all laboratories share,
// runs the tests, adopts and reaps whatever loses its parent, and leaves no
// process behind.
func inner(s stage) int {
	if err := prepareMounts(s.Dir); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "lab: become the reaper:", err)
		return 1
	}
	// What the caller of go test left open is not for the commands of tests.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, "lab: mark descriptors:", err)
		return 1
	}
	s.Name, s.Init = "tests", os.Getpid()
	cmd := itself(s)
	tmp := filepath.Join(s.Dir, "tmp")
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp, "HOME="+tmp, "GOTRACEBACK=all", "LC_ALL=C")
	// No parent-death signal: it would come when the thread ends that
	// started the tests, and threads of Go end when they like.
	cmd.SysProcAttr = nil
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	stop := passSignals(cmd.Process)
	defer stop()
	return reap(cmd.Process.Pid)
}

// prepareMounts gives L its own writable directory for temporary files, which
// vanishes with it, and cuts the way of mount events to and from the machine.
func prepareMounts(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	tmp := filepath.Join(dir, "tmp")
	if err := unix.Mount("tmpfs", tmp, "tmpfs", unix.MS_NOSUID, "mode=1777"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", tmp, err)
	}
	return nil
}

// reap waits for every child until the one called main has ended, kills what
// is left below this process, and returns main's status.
func reap(main int) int {
	result := 1
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // ECHILD: nobody is left
			return result
		case pid == main:
			result = waitStatus(ws)
			killBelow(os.Getpid())
		default:
			// An orphan's children become ours when it ends: after main
			// has ended they are unwanted too.
			if !alive(main) {
				killBelow(os.Getpid())
			}
		}
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func killBelow(pid int) {
	for _, p := range below(pid) {
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
}
