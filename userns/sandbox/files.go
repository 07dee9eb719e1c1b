package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Versions of Landlock's interface (landlock(7), "VERSIONS") that differ in
// what Files does.
const (
	abiRefer       = 2 // Linux 5.19: renames between directories
	abiTruncate    = 3 // Linux 6.2: truncate by name
	abiIoctl       = 5 // Linux 6.10: ioctl of a device opened later
	abiScopes      = 6 // Linux 6.12: signals, abstract Unix sockets
	abiThreads     = 8 // Linux 7.0: all threads in one call
	abiResolveUnix = 9 // Unix sockets by name
)

// Files takes all files away from the process and returns the version of
// Landlock's interface by which it did: a newer one takes more. From 6 (Linux
// 6.12) on, processes outside cannot be reached by abstract Unix sockets, nor,
// where that leaves Go's own signals alone, be sent any.
//
// Before 8 (Linux 7.0), a program that was built with cgo has no means to
// do it for all of its threads; that is an error, as is a kernel without
// Landlock. Both are errors.ErrUnsupported.
func Files() (abi int, err error) {
	if abi, err = landlockVersion(); err != nil {
		return 0, err
	}
	attr := noFiles(abi)
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return 0, fmt.Errorf("landlock: create rule set: %w", errno)
	}
	defer unix.Close(int(fd))
	if err := restrictThreads(abi, fd); err != nil {
		return 0, fmt.Errorf("landlock: %w", err)
	}
	return abi, nil
}

// landlockVersion returns the version of the kernel's interface, 1 or more.
func landlockVersion() (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("landlock: this kernel has none (CONFIG_SECURITY_LANDLOCK, lsm=landlock): %w", errno)
	}
	return int(v), nil
}

// noFiles is the set of rules that allow nothing of all that a version knows.
// The fields after Scoped, which are newer than most kernels, stay zero: the
// kernel takes a longer structure than its own if the rest is zero.
func noFiles(abi int) unix.LandlockRulesetAttr {
	// The rights of version 1 are all bits up to this one.
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1}
	for _, later := range []struct {
		abi   int
		right uint64
	}{
		{abiRefer, unix.LANDLOCK_ACCESS_FS_REFER},
		{abiTruncate, unix.LANDLOCK_ACCESS_FS_TRUNCATE},
		{abiIoctl, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
		{abiResolveUnix, unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX},
	} {
		if abi >= later.abi {
			attr.Handled_access_fs |= later.right
		}
	}
	if abi >= abiScopes {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	if signalsScoped(abi) {
		attr.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
	}
	return attr
}

// signalsScoped reports whether signals can be kept inside. Before version 8
// each thread is restricted for itself, and the first kernels with scopes then
// refused signals between threads of one process too, by which Go's runtime
// preempts. The list of errata, where fixed is erratum 2, says whether this one
// does.
func signalsScoped(abi int) bool {
	const fixed = 1 << (2 - 1)
	if abi < abiScopes || abi >= abiThreads {
		return abi >= abiThreads
	}
	errata, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	return errno == 0 && errata&fixed != 0
}

// restrictThreads applies the rules of a descriptor to all threads.
func restrictThreads(abi int, rules uintptr) error {
	if abi >= abiThreads {
		runtime.LockOSThread() // no_new_privs is the thread's; the call copies it to the others
		defer runtime.UnlockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, unix.LANDLOCK_RESTRICT_SELF_TSYNC, 0); errno != 0 {
			return fmt.Errorf("restrict all threads: %w", errno)
		}
		return nil
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0, 0); errno != 0 {
		return fmt.Errorf("restrict all threads: %w", errno)
	}
	return nil
}

// noNewPrivileges sets no_new_privs (prctl(2)) of all threads.
func noNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOTSUP:
		return errCgo
	}
	return fmt.Errorf("set no_new_privs: %w", errno)
}

// errCgo says why a program cannot restrict all of its threads
// (syscall.AllThreadsSyscall).
var errCgo = fmt.Errorf("a program built with cgo needs Linux 7.0 for this (build with CGO_ENABLED=0): %w", errors.ErrUnsupported)
