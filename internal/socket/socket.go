package socket

import (
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Socket is a descriptor with a count of its users, which closes with the
// last of them: nobody ever uses a number that was given to something else in
// the meantime.
type Socket struct {
	fd     int
	refs   atomic.Int32
	closed chan struct{}
}

// New returns a new non-blocking socket, which the runtime's poller does not
// know, with one reference.
func New(family, typ, protocol int) (*Socket, error) {
	fd, err := open(family, typ, protocol)
	if err != nil {
		return nil, err
	}
	return newSocket(fd), nil
}

func newSocket(fd int) *Socket {
	s := &Socket{fd: fd, closed: make(chan struct{})}
	s.refs.Store(1)
	return s
}

// A Conn is what has a socket's descriptor: an os.File, or most net.Conns.
type Conn interface {
	syscall.Conn
	io.Closer
}

// Take is New for c's socket. It closes c in any case.
func Take(c Conn) (*Socket, error) {
	defer c.Close()
	fd, err := Dup(c)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return newSocket(fd), nil
}

// Dup returns a descriptor of what c has open, which the runtime's poller does
// not know. It is the caller's.
func Dup(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return -1, e
	}
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return fd, nil
}

// FD returns the descriptor, which is valid while the caller has a reference.
func (s *Socket) FD() int { return s.fd }

// Acquire takes a reference. It returns false if the socket is closed.
func (s *Socket) Acquire() bool {
	for {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives a reference back; the last one closes the socket.
func (s *Socket) Release() {
	if s.refs.Add(-1) == 0 {
		unix.Close(s.fd) // nothing was promised to be delivered, so nothing to report
		close(s.closed)
	}
}

// Closed is closed when the socket is.
func (s *Socket) Closed() <-chan struct{} { return s.closed }
