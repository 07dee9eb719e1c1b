package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Seccomp makes the kernel kill the process when it does what no helper has to:
// execute a program, look into or take over another process, mount, change
// root or namespaces, open files by handle, load a module or a kernel, reboot,
// prctl. See denied for the list. Everything else stays allowed.
//
// Nothing that needs prctl can follow, so Files comes before.
func Seccomp() error {
	program, err := filter()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // no_new_privs is the thread's; the filter copies it to the others
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return fmt.Errorf("install system call filter: %w", errno)
	case thread != 0: // seccomp(2), SECCOMP_FILTER_FLAG_TSYNC
		return fmt.Errorf("install system call filter: thread %d has another", thread)
	}
	return nil
}

// errArch says that denied has no numbers for this processor.
var errArch = errors.New("system call filter: only for amd64 and arm64")

// What a filter may answer (seccomp(2), "Filter return values").
const (
	allow   = unix.SECCOMP_RET_ALLOW
	kill    = unix.SECCOMP_RET_KILL_PROCESS
	unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// Offsets into struct seccomp_data, which a filter sees (seccomp(2)). Of an
// argument it is the lower half, on the little-endian machines that we know.
const (
	offsetNumber   = 0
	offsetArch     = 4
	offsetArgument = 16 // the first one
)

// filter returns the program. The kernel runs it once for each number and
// remembers which are always allowed (Linux 5.11), so its length does not
// matter, and system calls whose arguments are looked at come last.
func filter() ([]unix.SockFilter, error) {
	if arch == 0 {
		return nil, errArch
	}
	var p program
	p.load(offsetArch)
	p.unlessEqual(arch, kill)
	p.load(offsetNumber)
	if foreignABI != 0 {
		p.ifAbove(foreignABI, kill)
	}
	for _, number := range denied() {
		p.ifEqual(number, kill)
	}
	// Its flags are behind a pointer. Who gets this answer calls clone.
	p.ifEqual(unix.SYS_CLONE3, unknown)

	// Threads and nothing else: a namespace has more rights than the process.
	p.skipUnless(unix.SYS_CLONE, 4)
	p.load(offsetArgument)
	p.ifAny(newNamespaces, kill)
	p.answer(allow)

	// Go's runtime names its mappings (Linux 5.17); that gives nobody anything.
	p.skipUnless(unix.SYS_PRCTL, 3)
	p.load(offsetArgument)
	p.unlessEqual(unix.PR_SET_VMA, kill)

	p.answer(allow)
	return p, nil
}

// newNamespaces are the flags of clone that make one. CLONE_NEWTIME is not
// among them: clone takes this bit for a part of the signal (clone(2)).
const newNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET |
	unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS
