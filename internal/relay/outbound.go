package relay

import (
	"errors"
	"io"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errTurn says that it is somebody else's turn.
var errTurn = errors.New("turn is over")

// A sender is an io.Writer on a non-blocking socket. It stops at the first
// error, EAGAIN included, and when its turn is over.
type sender struct {
	fd   uintptr
	left int // bytes of its turn
	err  error
}

// Write sends b, or as much of it as the socket takes.
func (s *sender) Write(b []byte) (int, error) {
	if s.left <= 0 {
		s.err = errTurn
		return 0, errTurn
	}
	sent := 0
	defer func() { s.left -= sent }()
	for sent < len(b) {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, s.fd, uintptr(unsafe.Pointer(&b[sent])), uintptr(len(b)-sent), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			sent += int(n)
		case unix.EINTR:
		default:
			s.err = errno
			return sent, errno
		}
	}
	return sent, nil
}

// outbound moves bytes from the guest to the host.
func (p *pair) outbound() {
	for {
		err := p.sendAll()
		switch err {
		case errTurn:
			runtime.Gosched()
		case syscall.EAGAIN:
			if !p.wait(p.guest.Readable()) {
				return
			}
		case io.EOF:
			p.hostShut.Store(true)
			_ = p.host.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
			p.end()
			p.watchGuest()
			return
		default:
			p.abort()
			return
		}
	}
}

// sendAll sends until its turn is over, which is errTurn, the guest has nothing
// more, which is EAGAIN, or either end fails. It waits for the host's socket.
func (p *pair) sendAll() error {
	var err error
	s := &sender{}
	waitErr := p.host.Write(func(fd uintptr) bool {
		s.fd, s.left, s.err = fd, turn, nil
		for {
			var n int
			n, err = p.guest.ReadTo(s)
			p.count.Outbound.Add(int64(n))
			if s.err != nil {
				return s.err != syscall.EAGAIN
			}
			if err != nil {
				return true
			}
		}
	})
	if waitErr != nil {
		return waitErr
	}
	if s.err != nil {
		return s.err
	}
	return err
}

// watchGuest waits for the end of the relay, or for the guest's RST.
func (p *pair) watchGuest() {
	for p.wait(p.guest.Readable()) {
		if p.guest.Err() != nil {
			p.abort()
			return
		}
	}
}
