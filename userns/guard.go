package userns

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// guardRole is argv[1] of the guard; a stage has stageRole there.
	guardRole = "guard"
	stageRole = "stage"

	// guardFD is the guard's end of its socket.
	guardFD = 3

	// guardTimeout bounds the wait for the guard's answer, which takes some
	// 50 µs; only a guard that somebody has stopped takes longer.
	guardTimeout = time.Second
)

// Requests to the guard, of one byte each.
const (
	guardSpace   = 's' // carries the user namespace that ends with the supervisor
	guardSignals = 'q' // asks which signals have come: answered by a signalSet
)

// errGuardGone is what Guest.Wait returns when the guard was killed.
var errGuardGone = fmt.Errorf("guard: %w", syscall.ESRCH)

// A guard is the guard process, seen from the supervisor.
type guard struct {
	*process
	wire *wire
}

// startGuard starts the guard on t's thread. Its signals are blocked before it
// exists, so no signal can end it, and none is missed.
func startGuard(t *thread) (*guard, error) {
	w, theirs, err := newWirePair()
	if err != nil {
		return nil, err
	}
	defer unix.Close(theirs)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		w.close()
		return nil, err
	}
	defer null.Close()
	attr := &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{null.Fd(), null.Fd(), 2, guardFD: uintptr(theirs)},
	}
	var pid int
	t.do(func() {
		unblock := blockSignals(witnessed())
		defer unblock()
		pid, err = syscall.ForkExec(selfExe, []string{StageName, guardRole, strconv.Itoa(guardFD)}, attr)
	})
	if err != nil {
		w.close()
		return nil, fmt.Errorf("start guard: %w", err)
	}
	return &guard{process: watch(pid), wire: w}, nil
}

// protect names the user namespace that shall not outlive the supervisor.
func (g *guard) protect(s *space) error {
	rights, err := rightsOf(s.file)
	if err != nil {
		return err
	}
	_, _, err = g.wire.conn.WriteMsgUnix([]byte{guardSpace}, rights, nil)
	return err
}

// signals returns the signals that the guard has got since the last call.
func (g *guard) signals() (signalSet, error) {
	if err := g.wire.conn.SetDeadline(time.Now().Add(guardTimeout)); err != nil {
		return 0, err
	}
	if _, err := g.wire.conn.Write([]byte{guardSignals}); err != nil {
		return 0, err
	}
	var answer [8]byte
	if _, err := io.ReadFull(g.wire.conn, answer[:]); err != nil {
		return 0, err
	}
	return signalSet(binary.NativeEndian.Uint64(answer[:])), nil
}

// close ends the guard.
func (g *guard) close() {
	g.end()
	g.wire.close()
}

// runGuard is the guard's main. It returns when the supervisor has gone.
func runGuard(fd int) int {
	runtime.LockOSThread()
	unix.CloseOnExec(fd)
	closeInherited(fd)
	set := witnessed().sigset()
	signals, err := unix.Signalfd(-1, &set, unix.SFD_NONBLOCK|unix.SFD_CLOEXEC)
	if err != nil {
		return statusFailed
	}
	var space *space
	for {
		var request [1]byte
		oob := make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := unix.Recvmsg(fd, request[:], oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
		case err != nil || n == 0:
			return guardEnd(space)
		case request[0] == guardSpace:
			if f := descriptor(oob[:oobn]); f != nil {
				space, _ = newSpace(f)
			}
		case request[0] == guardSignals:
			var answer [8]byte
			binary.NativeEndian.PutUint64(answer[:], uint64(drain(signals)))
			unix.Write(fd, answer[:]) // a supervisor that has gone shows in Recvmsg
		}
	}
}

// guardEnd does what is left to do after the supervisor has gone.
func guardEnd(s *space) int {
	if s == nil {
		return 0
	}
	if err := s.clear(); err != nil {
		return statusFailed
	}
	return 0
}

// drain returns the signals that wait in a signalfd.
func drain(fd int) signalSet {
	var set signalSet
	var info unix.SignalfdSiginfo
	b := (*[unsafe.Sizeof(info)]byte)(unsafe.Pointer(&info))
	for {
		n, err := unix.Read(fd, b[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != len(b) {
			return set
		}
		set = set.with(syscall.Signal(info.Signo))
	}
}

// closeInherited closes what the caller passed to the supervisor for the
// command: the guard must not hold the end of a pipe that somebody waits for.
// Our own descriptors are close-on-exec, those are not.
func closeInherited(keep int) {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		if err != nil || fd <= 2 || fd == keep {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}
