package userns

import (
	"math"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fork calls clone, in which a child of ours begins that does not run Go, and
// returns the child's process id. It must be called on a locked thread. The
// child has all signals blocked.
//
// From the system call on, the child may call nothing that could grow the
// stack, allocate or switch goroutines: it has no other thread and no
// scheduler. So clone, and what it calls in the child, is marked nosplit and
// norace, makes raw system calls only, and has all memory laid out beforehand.
// The memory is the child's own copy (no CLONE_VM): what it does to its
// credentials does not make this process undumpable.
func fork(clone func() (pid uintptr, errno syscall.Errno)) (pid int, err error) {
	// Nobody else forks meanwhile, so no descriptor of ours gets into the hands
	// of another's child, and theirs are closed in ours.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	defer blockSignals(math.MaxUint64)()
	child, errno := clone()
	if errno != 0 {
		return 0, os.NewSyscallError("clone", errno)
	}
	return int(child), nil
}

// cloneSelf is fork(2), which does not exist on all architectures. Unlike
// clone3 it is there before Linux 5.3 and in containers that do not know clone3.
//
//go:nosplit
//go:norace
func cloneSelf() (pid uintptr, errno syscall.Errno) { return cloneWith(uintptr(unix.SIGCHLD)) }

// cloneWith is cloneSelf with flags, of which the lowest byte is the signal of
// the child's end.
//
//go:nosplit
//go:norace
func cloneWith(flags uintptr) (pid uintptr, errno syscall.Errno) {
	stack := uintptr(0)
	if runtime.GOARCH == "s390x" { // clone(2): the arguments are swapped
		flags, stack = stack, flags
	}
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	return pid, errno
}

// maxDescriptor is above all descriptors.
const maxDescriptor = math.MaxUint32

// closeRange closes the descriptors from first to the one before end.
//
//go:nosplit
//go:norace
func closeRange(first, end uintptr) {
	if first >= end {
		return
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, first, end-1, 0)
	if errno == 0 {
		return
	}
	const most = 65536 // before Linux 5.9, one by one
	for fd := first; fd < end && fd < most; fd++ {
		syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
	}
}

// A program is our own, as execve(2) wants it.
type program struct {
	path *byte
	argv []*byte // ends with nil, as envv
	envv []*byte
}

// newProgram prepares a child's becoming a Go program with these arguments.
func newProgram(argv ...string) (p program, err error) {
	if p.path, err = syscall.BytePtrFromString(selfExe); err != nil {
		return p, err
	}
	if p.argv, err = syscall.SlicePtrFromStrings(argv); err != nil {
		return p, err
	}
	p.envv, err = syscall.SlicePtrFromStrings(os.Environ())
	return p, err
}

// exec turns the child into the program. All descriptors but the standard three
// and keep must be close-on-exec. It returns only an error.
//
//go:nosplit
//go:norace
func (p *program) exec(keep uintptr) syscall.Errno {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, keep, syscall.F_SETFD, 0); errno != 0 {
		return errno
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)),
		uintptr(unsafe.Pointer(&p.argv[0])), uintptr(unsafe.Pointer(&p.envv[0])))
	return errno
}

// exit ends the child.
//
//go:nosplit
//go:norace
func exit(status uintptr) {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, status, 0, 0)
	}
}
