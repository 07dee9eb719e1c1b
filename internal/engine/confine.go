package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"taproot/userns/sandbox"
)

// confineChildren makes the programs that the calling thread executes from now
// on run without capabilities and unable to gain any: as root, they would have
// those of the bounding set again. It is done here and not in the engine,
// because there it had to be done on all threads of a Go program, for which a
// program built with cgo has no means.
//
// The thread itself keeps its capabilities, which it may need to read the
// program.
func confineChildren() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := clearInheritable(); err != nil {
		return err
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EPERM) {
			return nil // no CAP_SETPCAP: an ordinary user, whose programs get none
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: unknown to this kernel
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	return nil
}

// clearInheritable empties the calling thread's inheritable set.
func clearInheritable() error {
	header, sets, err := capabilities()
	if err != nil {
		return err
	}
	for i := range sets {
		sets[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	return nil
}

func capabilities() (unix.CapUserHeader, [2]unix.CapUserData, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return header, sets, fmt.Errorf("read capabilities: %w", err)
	}
	return header, sets, nil
}

// errPrivileged says that the engine has what it must not have.
var errPrivileged = errors.New("the engine has capabilities or may gain them")

// confine checks that the engine was started without privileges, forbids other
// processes of the user to look into it, and gives up what s asks for. It must
// come before the first frame. Files that cannot be given up because the kernel
// knows no way are a warning: podman asks for them on every kernel.
func confine(s Sandbox) (warning string, err error) {
	_, sets, err := capabilities()
	if err != nil {
		return "", err
	}
	noNewPrivs, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil {
		return "", fmt.Errorf("read no_new_privs: %w", err)
	}
	if noNewPrivs != 1 || sets != [2]unix.CapUserData{} {
		return "", errPrivileged
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return "", fmt.Errorf("set not dumpable: %w", err)
	}
	if s.Files {
		_, err := sandbox.Files()
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return "", fmt.Errorf("sandbox: %w", err)
		}
		if err != nil {
			warning = fmt.Sprintf("the engine still sees the files of the user: %v", err)
		}
	}
	if s.Calls {
		if err := sandbox.Seccomp(); err != nil {
			return "", fmt.Errorf("seccomp: %w", err)
		}
	}
	return warning, nil
}
