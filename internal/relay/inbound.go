package relay

import (
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// chunk is how much is moved to the guest at once, in bytes: what a superframe
// holds behind its headers, as gVisor counts them.
const chunk = 65536 - 161

// An inbound is the direction from the host to the guest.
type inbound struct {
	ready   bool // the host's socket may have something
	exact   bool // a short read does not mean that it is empty, see end.exact
	bulk    bool // much comes at once: it is received straight into the stream
	stalled bool // the guest takes nothing
	ended   bool // the FIN was passed on

	held []byte // what was received and the guest did not take
}

// receiveAll moves what the host has sent, until there is no more or the guest
// takes no more, which are nil, or its turn is over, which is errTurn.
func (p *pair) receiveAll() error {
	i := &p.inbound
	for left := turn; !i.stalled && !i.ended; {
		if left <= 0 {
			return errTurn
		}
		var n int
		var err error
		switch {
		case len(i.held) > 0:
			n, err = p.give(i.held)
		case !i.ready:
			return nil
		case i.bulk:
			n, err = p.receiveBulk()
		default:
			n, err = p.receiveSmall()
		}
		left -= n
		if err != nil {
			return err
		}
	}
	return nil
}

// receiveSmall receives into the scratch buffer, and finds the FIN and errors.
func (p *pair) receiveSmall() (int, error) {
	i := &p.inbound
	b := p.streams.scratch[:]
	n, err := receive(uintptr(p.host), b)
	switch {
	case err == syscall.EAGAIN:
		i.ready = false
		return 0, nil
	case err == io.EOF && p.dead:
		return 0, errEarly
	case err == io.EOF:
		i.ended = true
		return 0, p.guest.CloseWrite()
	case err != nil:
		return 0, err
	}
	i.bulk = n == len(b)
	i.ready = i.bulk || i.exact
	return p.give(b[:n])
}

// give sends b to the guest, and keeps what it does not take.
func (p *pair) give(b []byte) (int, error) {
	i := &p.inbound
	n, err := p.guest.WriteFrom(&slicePayload{b})
	p.count.Inbound.Add(int64(n))
	if err == syscall.EAGAIN {
		i.stalled, err = true, nil
	}
	switch {
	case n == len(b):
		i.held = nil
	case len(i.held) > 0:
		i.held = i.held[n:]
	default:
		i.held = append([]byte(nil), b[n:]...)
	}
	return n, err
}

// receiveBulk receives into the stream's own buffer. What it does not know how
// to receive it leaves to receiveSmall.
func (p *pair) receiveBulk() (int, error) {
	i := &p.inbound
	waiting := queued(p.host)
	if waiting < worthwhile {
		i.bulk = false
		return 0, nil
	}
	r := receiver{fd: uintptr(p.host), n: min(waiting, chunk)}
	n, err := p.guest.WriteFrom(&r)
	p.count.Inbound.Add(int64(n))
	switch {
	case r.err != nil:
		return n, r.err
	case err == syscall.EAGAIN:
		i.stalled, err = true, nil
	}
	return n, err
}

// queued returns how many bytes can be received at once, tcp(7). 0 may mean
// anything.
func queued(fd int) int {
	var n int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0
	}
	return int(n)
}

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
	n, err := receive(r.fd, b[:min(len(b), r.n)])
	switch {
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
		fallthrough
	case err != nil:
		r.err = err
		return 0, err
	}
	r.n -= n
	return n, nil
}

// A slicePayload is a Payload of bytes.
type slicePayload struct{ b []byte }

// Len returns the number of bytes that are left.
func (p *slicePayload) Len() int { return len(p.b) }

// Read copies to b.
func (p *slicePayload) Read(b []byte) (int, error) {
	n := copy(b, p.b)
	p.b = p.b[n:]
	return n, nil
}
