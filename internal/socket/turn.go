package socket

import (
	"encoding/binary"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Turn lets a goroutine that always finds more to do give the others theirs.
// runtime.Gosched is not enough: the runtime asks its poller only when nobody
// can run, or after 10 ms, and so does not learn of a descriptor that somebody
// waits for. A Turn is an event counter (eventfd(2)) that the caller makes ready
// and then waits for like everybody else. It belongs to one goroutine.
type Turn struct {
	file *os.File
	raw  syscall.RawConn
	one  [8]byte // what is added to the counter, which is never read

	attempt func(fd uintptr) bool // made once, not for each turn
	waited  bool
}

// NewTurn returns a Turn, which its user closes.
func NewTurn() (*Turn, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	t := &Turn{file: os.NewFile(uintptr(fd), "turn")}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		t.file.Close()
		return nil, err
	}
	binary.NativeEndian.PutUint64(t.one[:], 1)
	t.attempt = func(fd uintptr) bool {
		if t.waited {
			return true
		}
		t.waited = true
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&t.one)), uintptr(len(t.one)))
		return errno != 0
	}
	return t, nil
}

// Yield lets everybody run who can, or who waits for a descriptor that is ready.
// After Close it does nothing.
func (t *Turn) Yield() {
	t.waited = false
	_ = t.raw.Read(t.attempt) // fails when closed, as what the caller does next will
}

// Close makes Yield return. Another goroutine may call it.
func (t *Turn) Close() { t.file.Close() } // nothing is written, so nothing can be lost
