package userns

import (
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// witnessName is what ps(1) shows for a guard (15 bytes at most, prctl(2)).
const witnessName = "taproot-guard"

// A witness is what a guard process needs until it has to sweep.
//
// The guard is a fork of the supervisor that does not run Go: a Go program
// cannot have SIGHUP, SIGINT, SIGQUIT or SIGTERM blocked, its runtime unblocks
// them in every thread. So until the supervisor has gone, the guard is one
// thread with all signals blocked, in one function that makes raw system calls
// only, on memory that is laid out here. Then it becomes a Go program again, by
// exec. It costs a fork (0.3 ms) and next to no memory.
type witness struct {
	socket, space, null uintptr // descriptors
	low, high           uintptr // socket and space in order

	set     unix.Sigset_t // signals to collect
	wait    unix.Timespec // zero
	ignore  sigaction
	request [1]byte
	answer  signalSet

	name *byte // of the process, for ps(1)
	args title // likewise

	sweeper program
}

func newWitness(socket, space, null int) (*witness, error) {
	w := &witness{
		socket: uintptr(socket), space: uintptr(space), null: uintptr(null),
		low: uintptr(min(socket, space)), high: uintptr(max(socket, space)),
		set:    witnessed().sigset(),
		ignore: ignoreAction(),
	}
	w.args.prepare(witnessName)
	var err error
	if w.name, err = syscall.BytePtrFromString(witnessName); err != nil {
		return nil, err
	}
	w.sweeper, err = newProgram(StageName, sweepRole, strconv.Itoa(space))
	return w, err
}

// fork starts the guard. It must be called on a locked thread.
func (w *witness) fork() (pid int, err error) {
	defer runtime.KeepAlive(w)
	return fork(w.clone)
}

// clone forks; the child never returns from it. See fork for the rules.
//
//go:nosplit
//go:norace
func (w *witness) clone() (pid uintptr, errno syscall.Errno) {
	if pid, errno = cloneSelf(); errno != 0 || pid != 0 {
		return pid, errno
	}
	w.isolate()
	w.collect()
	w.become()
	exit(statusFailed)
	return 0, 0
}

// isolate gives up every descriptor but the two: the guard must not hold what
// others wait for the end of.
//
//go:nosplit
//go:norace
func (w *witness) isolate() {
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(w.name)), 0, 0, 0, 0)
	w.args.write()
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	for fd := uintptr(0); fd <= 2; fd++ {
		syscall.RawSyscall(syscall.SYS_DUP3, w.null, fd, 0)
	}
	closeRange(3, w.low)
	closeRange(w.low+1, w.high)
	closeRange(w.high+1, maxDescriptor)
}

// collect answers each packet with the signals that have come since the last,
// until the other side has gone.
//
//go:nosplit
//go:norace
func (w *witness) collect() {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, w.socket, uintptr(unsafe.Pointer(&w.request)), 1)
		if errno != 0 || n == 0 {
			return // no signal can interrupt it
		}
		w.answer = 0
		for {
			sig, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGTIMEDWAIT,
				uintptr(unsafe.Pointer(&w.set)), 0, uintptr(unsafe.Pointer(&w.wait)), sigsetSize, 0, 0)
			if errno != 0 {
				break
			}
			w.answer |= 1 << (sig - 1)
		}
		syscall.RawSyscall(syscall.SYS_WRITE, w.socket, uintptr(unsafe.Pointer(&w.answer)), unsafe.Sizeof(w.answer))
	}
}

// become turns the guard into the process that sweeps.
//
//go:nosplit
//go:norace
func (w *witness) become() {
	// What is pending would end a Go program; ignoring it drops it.
	for sig := uintptr(1); sig <= 64; sig++ {
		if sig != uintptr(unix.SIGCHLD) {
			syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&w.ignore)), 0, sigsetSize, 0, 0)
		}
	}
	w.sweeper.exec(w.space)
}
