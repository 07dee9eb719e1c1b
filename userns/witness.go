package userns

import (
	"math"
	"os"
	"runtime"
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

	path *byte   // of the program that sweeps
	argv []*byte // ends with nil, as envv
	envv []*byte
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
	if w.path, err = syscall.BytePtrFromString(selfExe); err != nil {
		return nil, err
	}
	if w.argv, err = syscall.SlicePtrFromStrings(sweepArgs(space)); err != nil {
		return nil, err
	}
	w.envv, err = syscall.SlicePtrFromStrings(os.Environ())
	return w, err
}

// fork starts the guard. It must be called on a locked thread.
func (w *witness) fork() (pid int, err error) {
	// Nobody else forks meanwhile, so no descriptor of ours gets into the hands
	// of another's child, and theirs are closed in ours.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	unblock := blockSignals(math.MaxUint64)
	defer unblock()
	child, errno := w.clone()
	runtime.KeepAlive(w)
	if errno != 0 {
		return 0, os.NewSyscallError("clone", errno)
	}
	return int(child), nil
}

// clone forks; the child never returns from it. From here to exec nothing may
// be called that could grow the stack, allocate or switch goroutines: the child
// has no other thread and no scheduler.
//
//go:nosplit
//go:norace
func (w *witness) clone() (pid uintptr, errno syscall.Errno) {
	// fork(2) does not exist on all architectures; this is the same.
	flags, stack := uintptr(unix.SIGCHLD), uintptr(0)
	if runtime.GOARCH == "s390x" { // clone(2): the arguments are swapped
		flags, stack = stack, flags
	}
	pid, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	w.isolate()
	w.collect()
	w.become()
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, statusFailed, 0, 0)
	}
}

// isolate gives up every descriptor but the two: the guard must not hold what
// others wait for the end of.
//
//go:nosplit
//go:norace
func (w *witness) isolate() {
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(w.name)), 0, 0, 0, 0)
	w.args.write()
	for fd := uintptr(0); fd <= 2; fd++ {
		syscall.RawSyscall(syscall.SYS_DUP3, w.null, fd, 0)
	}
	closeRange(3, w.low)
	closeRange(w.low+1, w.high)
	closeRange(w.high+1, math.MaxUint32)
}

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
	syscall.RawSyscall(syscall.SYS_FCNTL, w.space, syscall.F_SETFD, 0)
	syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(w.path)),
		uintptr(unsafe.Pointer(&w.argv[0])), uintptr(unsafe.Pointer(&w.envv[0])))
}
