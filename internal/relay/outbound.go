package relay

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An outbound is the direction from the guest to the host.
type outbound struct {
	ready   bool // the guest may have something
	stalled bool // the host's socket takes nothing
	armed   bool // and the loop tells when it does
	ended   bool // the FIN was passed on
}

// sendAll sends what the guest has sent, until there is no more or the host's
// socket takes no more or is dead, which are nil, or its turn is over, which is
// errTurn. The FIN is passed on; where the host has sent its own, closing the
// socket will do.
func (p *pair) sendAll() error {
	o := &p.outbound
	s := sender{fd: uintptr(p.host), left: turn}
	for o.ready && !o.stalled && !o.ended && !p.dead {
		n, err := p.guest.ReadTo(&s)
		p.count.Outbound.Add(int64(n))
		switch {
		case s.err == syscall.EAGAIN:
			o.stalled = true
			if o.armed {
				return nil
			}
			o.armed = true
			return p.streams.arm(p)
		case s.err == errTurn:
			return errTurn
		case s.err != nil:
			p.die()
		case err == syscall.EAGAIN:
			o.ready = false
		case err == io.EOF:
			o.ended = true
			if !p.inbound.ended {
				_ = closeWrite(p.host) // of a socket that is dead, we are told
			}
		case err != nil:
			return err
		}
	}
	return nil
}

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
