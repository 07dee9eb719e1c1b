package userns

import (
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A joiner is a child that becomes a stage inside existing namespaces.
type joiner struct {
	entry
	mask   unix.Sigset_t // of the thread that forks
	action sigaction

	header  unix.CapUserHeader
	caps    [2]unix.CapUserData // two words of each set, in version 3
	ambient uint32              // capabilities to keep, as in the first word

	program program
}

// newJoiner prepares a stage that gets its order over socket.
func (n *Namespace) newJoiner(socket int) (*joiner, error) {
	j := &joiner{entry: n.newEntry(socket), ambient: 1 << unix.CAP_NET_ADMIN}
	j.header.Version = unix.LINUX_CAPABILITY_VERSION_3
	var err error
	j.program, err = newProgram(StageName, joinRole, strconv.Itoa(socket))
	return j, err
}

// fork starts the stage. It must be called on a locked thread.
func (j *joiner) fork() (pid int, err error) {
	defer runtime.KeepAlive(j)
	return fork(&j.mask, j.clone)
}

// clone forks; the child never returns from it. See fork for the rules.
//
//go:nosplit
//go:norace
func (j *joiner) clone() (pid uintptr, errno syscall.Errno) {
	if pid, errno = cloneSelf(); errno != 0 || pid != 0 {
		return pid, errno
	}
	if j.enter() && j.keepCapabilities() {
		j.become()
	}
	exit(statusFailed)
	return 0, 0
}

// keepCapabilities makes the capabilities that a stage needs survive the exec:
// whoever is not root in the namespace, or nobody known there, loses all others.
//
//go:nosplit
//go:norace
func (j *joiner) keepCapabilities() bool {
	header, data := uintptr(unsafe.Pointer(&j.header)), uintptr(unsafe.Pointer(&j.caps))
	if _, _, errno := syscall.RawSyscall(unix.SYS_CAPGET, header, data, 0); errno != 0 {
		return j.fail(stepCapset, 0, errno)
	}
	j.ambient &= j.caps[0].Permitted // without the user namespace it may have none
	j.caps[0].Inheritable |= j.ambient
	if _, _, errno := syscall.RawSyscall(unix.SYS_CAPSET, header, data, 0); errno != 0 {
		return j.fail(stepCapset, 0, errno)
	}
	for c := uintptr(0); c < 32; c++ {
		if j.ambient&(1<<c) != 0 {
			// Where it is forbidden (SECBIT_NO_CAP_AMBIENT_RAISE) root needs none, and
			// for others the stage says what it may not do.
			syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0, 0)
		}
	}
	return true
}

// become turns the child into the stage. Of all descriptors it keeps the
// standard three and the socket.
//
//go:nosplit
//go:norace
func (j *joiner) become() {
	closeRange(3, j.socket)
	closeRange(j.socket+1, maxDescriptor)
	resetHandlers(&j.action)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&j.mask)), 0, sigsetSize, 0, 0)
	j.fail(stepExec, 0, j.program.exec(j.socket))
}
