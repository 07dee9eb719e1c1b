package socket

import (
	"os"
	"sync/atomic"

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

// Take returns f's socket, non-blocking and unknown to the runtime's poller,
// with one reference. It closes f in any case.
func Take(f *os.File) (*Socket, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Socket{closed: make(chan struct{})}
	s.refs.Store(1)
	if e := raw.Control(func(fd uintptr) {
		s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(s.fd, true); err != nil {
		unix.Close(s.fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return s, nil
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
