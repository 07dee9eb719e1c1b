package userns

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A signalSet is a set of the signals 1 to 64, bit n-1 for signal n.
type signalSet uint64

func (s signalSet) with(sig syscall.Signal) signalSet    { return s | 1<<(sig-1) }
func (s signalSet) without(sig syscall.Signal) signalSet { return s &^ (1 << (sig - 1)) }
func (s signalSet) has(sig syscall.Signal) bool          { return s&(1<<(sig-1)) != 0 }

// witnessed returns the signals that a supervisor passes on and that the guard
// watches. SIGTTIN and SIGTTOU are among them so that the supervisor stops when
// the command does, and not by itself.
func witnessed() signalSet {
	var s signalSet
	for _, sig := range []syscall.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
		syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGTTIN, syscall.SIGTTOU,
	} {
		s = s.with(sig)
	}
	return s
}

// stopping returns those of the set that a terminal stops processes by.
func (s signalSet) stopping() signalSet {
	return s & signalSet(0).with(syscall.SIGTSTP).with(syscall.SIGTTIN).with(syscall.SIGTTOU)
}

// list returns the set's signals that this process does not ignore. A signal
// that the caller ignores (nohup does it) stays ignored in the supervisor and,
// since exec keeps that, in the command.
//
// Go's runtime keeps this only for SIGHUP, SIGINT and the stop signals; it has
// installed its own handler for all others before our first line runs, so they
// are at their default in the command.
func (s signalSet) list() []os.Signal {
	var signals []os.Signal
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if s.has(sig) && !ignored(sig) {
			signals = append(signals, sig)
		}
	}
	return signals
}

// sigset returns the set as the kernel has it.
func (s signalSet) sigset() (set unix.Sigset_t) {
	// The kernel's set is bit n-1 for signal n, in words of the machine's size.
	bits := 8 * int(unsafe.Sizeof(set.Val[0]))
	for i := 0; i < 64; i++ {
		if s.has(syscall.Signal(i + 1)) {
			set.Val[i/bits] |= 1 << (i % bits)
		}
	}
	return set
}

// blockSignals blocks signals for this thread, and so for the children that it
// starts, until the returned function is called on the same thread.
func blockSignals(s signalSet) (unblock func()) {
	set := s.sigset()
	var old unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return func() {}
	}
	return func() { unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }
}

// A sigaction holds a kernel's struct sigaction of any architecture; the largest
// has 32 bytes. All zero, it means the default action everywhere. The handler
// is its first field, but on mips.
type sigaction [8]uint64

const (
	sigIgnore  = 1 // SIG_IGN
	sigsetSize = 8 // bytes of the kernel's signal set, which it wants to be told
)

// ignoreAction is the action of a signal that is ignored.
func ignoreAction() (action sigaction) {
	*(*uintptr)(unsafe.Pointer(&action)) = sigIgnore
	return action
}

// ignored says whether the kernel throws the signal away for us.
func ignored(sig syscall.Signal) bool {
	var action sigaction
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		0, uintptr(unsafe.Pointer(&action)), sigsetSize, 0, 0)
	return errno == 0 && *(*uintptr)(unsafe.Pointer(&action)) == sigIgnore
}
