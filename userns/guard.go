package userns

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stageRole and sweepRole are argv[1] of a process that starts in Stage. The
	// third argument is the number of a descriptor: of a stage's socket, or of
	// the user namespace to sweep.
	stageRole = "stage"
	sweepRole = "sweep"

	// guardTimeout bounds the wait for the guard's answer, which takes some
	// 20 µs; only a guard that somebody has stopped takes longer.
	guardTimeout = time.Second
)

// errGuardGone is what Guest.Wait returns when the guard was killed.
var errGuardGone = fmt.Errorf("guard: %w", syscall.ESRCH)

// A guard is the guard process, seen from the supervisor.
type guard struct {
	*process
	file *os.File
}

// startGuard starts the guard of a user namespace, on t's thread.
func startGuard(t *thread, s *space) (*guard, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(fds[1])
	if err := unix.SetNonblock(fds[0], true); err != nil { // for deadlines
		unix.Close(fds[0])
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fds[0]), "guard")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.Close()
		return nil, err
	}
	defer null.Close()
	w, err := newWitness(fds[1], int(s.file.Fd()), int(null.Fd()))
	if err != nil {
		f.Close()
		return nil, err
	}
	var pid int
	t.do(func() { pid, err = w.fork() })
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("start guard: %w", err)
	}
	return &guard{process: watch(pid), file: f}, nil
}

// signals returns the signals that the guard has got since the last call.
func (g *guard) signals() (signalSet, error) {
	if err := g.file.SetDeadline(time.Now().Add(guardTimeout)); err != nil {
		return 0, err
	}
	if _, err := g.file.Write([]byte{0}); err != nil { // any packet asks
		return 0, err
	}
	var answer [8]byte
	if _, err := io.ReadFull(g.file, answer[:]); err != nil {
		return 0, err
	}
	return signalSet(binary.NativeEndian.Uint64(answer[:])), nil
}

// close ends the guard.
func (g *guard) close() {
	g.end()
	g.file.Close()
}

// sweep is the main of the process that a guard becomes when its supervisor has
// gone: it kills what is left in the user namespace of descriptor fd.
func sweep(fd int) int {
	s, err := newSpace(os.NewFile(uintptr(fd), "user namespace"))
	if err != nil {
		return statusFailed
	}
	if err := s.clear(); err != nil {
		return statusFailed
	}
	return 0
}
