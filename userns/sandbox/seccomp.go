package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Seccomp makes the kernel kill the process when it makes a system call that is
// not one of the engine's work, or with arguments that are not: see allowed and
// restricted. Those that Go's library makes for what it can do without are
// refused (EACCES).
//
// Nothing that needs prctl can follow, so Files comes before.
func Seccomp() error {
	program, err := engineFilter()
	if err != nil {
		return err
	}
	return install(program)
}

// Forgo makes the kernel kill the process when it does what no process of ours
// has to: look into another one, change the kernel or the machine, use one of the
// kernel's large interfaces. See neededByNobody. Everything else stays allowed, to
// its children too, which cannot gain privileges by execve(2) any more. The latter holds
// where there is no filter for the processor too, which is the error then.
func Forgo() error {
	program, err := commonFilter()
	if err != nil {
		if gains := noNewPrivileges(); gains != nil {
			return gains
		}
		return err
	}
	return install(program)
}

// install makes a program the filter of all threads.
func install(program program) error {
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

// errArch says that there are no numbers for this processor.
var errArch = errors.New("system call filter: only for amd64 and arm64")

// What a filter may answer (seccomp(2), "Filter return values").
const (
	allow   = unix.SECCOMP_RET_ALLOW
	kill    = unix.SECCOMP_RET_KILL_PROCESS
	refuse  = unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)
	unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// Offsets into struct seccomp_data, which a filter sees (seccomp(2)). Of an
// argument the lower half comes first, on the little-endian machines that we know.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
	argumentSize    = 8
)

// newProgram begins a filter: system calls of another architecture kill. The
// register has the number then.
func newProgram() (p program, err error) {
	if arch == 0 {
		return nil, errArch
	}
	p.load(offsetArch)
	p.unlessEqual(arch, kill)
	p.load(offsetNumber)
	if foreignABI != 0 {
		p.ifAbove(foreignABI, kill)
	}
	return p, nil
}

// engineFilter returns the engine's filter. The kernel runs it once for each
// number and remembers which are always allowed (Linux 5.11), so what counts is
// how early the others come: in the order of how often they are made.
func engineFilter() (program, error) {
	p, err := newProgram()
	if err != nil {
		return nil, err
	}
	for _, r := range restricted() {
		p.restrict(r)
	}
	for _, number := range allowed() {
		p.ifEqual(number, allow)
	}
	for _, number := range refused() {
		p.ifEqual(number, refuse)
	}
	// Its flags are behind a pointer. Who gets this answer calls clone.
	p.ifEqual(unix.SYS_CLONE3, unknown)
	p.answer(kill)
	return p, nil
}

// commonFilter returns the filter of Forgo.
func commonFilter() (program, error) {
	p, err := newProgram()
	if err != nil {
		return nil, err
	}
	for _, number := range neededByNobody() {
		p.ifEqual(number, kill)
	}
	p.answer(allow)
	return p, nil
}
