package userns

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An executor is a process that executes a will when this one dies without having
// ended it, seen from here.
type executor struct {
	pid    int
	socket *os.File
}

// startExecutor starts an executor of wills for what the descriptors of t reach. It
// has the device open too, if there is one, for as long as it lives.
func startExecutor(reach executorReach) (*executor, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	e := &executor{socket: os.NewFile(uintptr(fds[0]), "executor")}
	defer unix.Close(fds[1])
	t, err := newTrustee(fds[1], reach)
	if err == nil {
		e.pid, err = t.fork()
	}
	if err != nil {
		e.socket.Close()
		return nil, err
	}
	return e, nil
}

// tell gives the executor another will in the place of the one that it has. It does not
// wait for one that has stopped.
func (e *executor) tell(w *will) error {
	defer runtime.KeepAlive(w)
	packet := unsafe.Slice((*byte)(unsafe.Pointer(w)), unsafe.Sizeof(*w))
	return os.NewSyscallError("send", unix.Send(int(e.socket.Fd()), packet, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
}

// end ends the executor, and with it the will.
func (e *executor) end() {
	// The number is its own until it is reaped, even if somebody has killed it.
	_ = syscall.Kill(e.pid, syscall.SIGKILL)
	awaitChild(e.pid)
	e.socket.Close()
}
