package relay

import (
	"io"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A receiver is a Payload on a socket that has at least n bytes waiting.
type receiver struct {
	fd  uintptr
	n   int
	err error
}

// Len returns the number of bytes that Read delivers.
func (r *receiver) Len() int { return r.n }

// Read receives into b. An error after bytes were promised is a reset, which
// takes the socket's buffer with it.
func (r *receiver) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, r.fd, uintptr(unsafe.Pointer(&b[0])), uintptr(min(len(b), r.n)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			r.err = errno
			return 0, errno
		case n == 0:
			r.err = io.ErrUnexpectedEOF
			return 0, io.ErrUnexpectedEOF
		}
		r.n -= int(n)
		return int(n), nil
	}
}

// inbound moves bytes from the host to the guest.
func (p *pair) inbound() {
	for {
		err := p.receiveAll()
		switch err {
		case errTurn:
			runtime.Gosched()
		case syscall.EAGAIN:
			if !p.wait(p.guest.Writable()) {
				return
			}
		case io.EOF:
			if p.wasReset() || p.guest.CloseWrite() != nil {
				p.abort()
				return
			}
			p.end()
			p.watchHost()
			return
		default:
			p.abort()
			return
		}
	}
}

// wasReset tells whether an end of the host's data was none: a socket reports a
// reset once, and if that was to the other direction, looks like one after FIN.
// But it is closed both ways, although we have not closed ours.
func (p *pair) wasReset() bool {
	hangUp := false
	_ = p.host.Control(func(fd uintptr) {
		state := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(state, 0)
		hangUp = err == nil && state[0].Revents&unix.POLLHUP != 0
	})
	return hangUp && !p.hostShut.Load()
}

// receiveAll moves what the host sends until its turn is over, which is errTurn, the
// guest takes no more, which is EAGAIN, the host's FIN, which is io.EOF, or an
// error of either end. It waits for the host's socket.
func (p *pair) receiveAll() error {
	var err error
	r := &receiver{}
	waitErr := p.host.Read(func(fd uintptr) bool {
		r.fd, r.err = fd, nil
		for moved := 0; moved < turn; {
			if r.n, err = waiting(fd); err != nil {
				return err != syscall.EAGAIN
			}
			var n int
			n, err = p.guest.WriteFrom(r)
			moved += n
			p.count.Inbound.Add(int64(n))
			if r.err != nil || err != nil {
				return true
			}
		}
		err = errTurn
		return true
	})
	if waitErr != nil {
		return waitErr
	}
	if r.err != nil {
		return r.err
	}
	return err
}

// waiting returns how many bytes can be received at once, at most chunk; or
// EAGAIN, io.EOF after the host's FIN, or the socket's error.
func waiting(fd uintptr) (int, error) {
	var queued int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, unix.TIOCINQ, uintptr(unsafe.Pointer(&queued)))
	if errno != 0 {
		return 0, errno
	}
	if queued > 0 {
		return min(int(queued), chunk), nil
	}
	var b [1]byte
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		}
		return 1, nil
	}
}

// watchHost waits for the end of the relay, or for the host's RST.
func (p *pair) watchHost() { p.watch(p.host) }

// watch waits for the end of the relay, or for the RST of a socket from which
// all has been read.
func (l *life) watch(source syscall.RawConn) {
	err := source.Read(func(fd uintptr) bool {
		e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return e != 0 || err != nil
	})
	if err == nil {
		l.abort()
	}
}
