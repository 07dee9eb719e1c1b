package relay

import (
	"golang.org/x/sys/unix"
)

const (
	// small is how much is copied through user space at once, in bytes. A read
	// that fills it makes a way splice: that costs two calls and a pipe, which
	// ping-pong would feel (0.6x).
	small = 16 << 10

	// worthwhile is what a splice must move, in bytes, for the next one.
	worthwhile = 4 << 10

	// pipeSize is what the first largePipes pipes of a loop hold, in bytes, and
	// so how much a way moves before others have their turn. Each splice makes
	// our kernel acknowledge and wake the sender: with a full queue, 64 KiB cost
	// 0.7 s of processor per GB, 256 KiB 0.5, 1 MiB 0.34.
	pipeSize = 1 << 20

	// bite is how much a way moves, in bytes, while others move little, and for
	// patience turns after: beside six ways that move all they can, what is small
	// waits for 95 us in half of all cases and 200 us in all but a hundredth, on
	// a machine with fifteen programs for each processor.
	bite     = 128 << 10
	patience = 64

	// A user's pipes hold 64 MiB before the kernel makes them tiny for all of
	// the user's programs (pipe-user-pages-soft, pipe(7)). A loop takes half of
	// that at most: 16 pipes of pipeSize, and others as the kernel makes them,
	// 64 KiB. Ways that get none copy.
	largePipes = 16
	maxPipes   = largePipes + 256

	// sparePipes and spareBuffers are how many a loop keeps for the next one
	// who needs one. It needs more than one only for ways that are stalled.
	sparePipes   = 4
	spareBuffers = 16

	// respite is how often a way goes without a pipe after the kernel gave none
	// before it is asked again: asking costs as much as copying.
	respite = 64
)

// buffers are the buffers of one loop that nobody holds.
type buffers struct{ spare []*[small]byte }

func (p *buffers) take() *[small]byte {
	if n := len(p.spare); n > 0 {
		b := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return b
	}
	return new([small]byte)
}

func (p *buffers) give(b *[small]byte) {
	if len(p.spare) < spareBuffers {
		p.spare = append(p.spare, b)
	}
}

// A pipe is empty whenever it is not in use. The zero pipe is none. One of which w is
// none came with a connection: only what it holds can be read, and then it is closed.
type pipe struct{ r, w int32 }

// none is no descriptor.
const none = -1

// pipes are the pipes of one loop.
type pipes struct {
	spare []pipe // that nobody holds
	made  int    // how many there are
	wait  int    // how often not to ask the kernel

	below int // see MoverConfig.Descriptors
}

// take returns an empty pipe, or false: then the caller copies.
func (p *pipes) take() (pipe, bool) {
	switch n := len(p.spare); {
	case n > 0:
		q := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return q, true
	case p.wait > 0:
		p.wait--
		return pipe{}, false
	case p.made >= maxPipes:
		return pipe{}, false
	}
	q, ok := newPipe(p.made < largePipes, p.below)
	if !ok {
		p.wait = respite
		return pipe{}, false
	}
	p.made++
	return q, true
}

// newPipe asks the kernel. It returns false if the process may have no more
// descriptors, or the user no more pipes worth having.
func newPipe(large bool, below int) (pipe, bool) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, false
	}
	p := pipe{int32(fds[0]), int32(fds[1])}
	if below > 0 && max(fds[0], fds[1]) >= below {
		p.close()
		return pipe{}, false
	}
	if large {
		if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize); err == nil {
			return p, true
		}
	}
	if size, err := unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0); err != nil || size < 2*small {
		p.close()
		return pipe{}, false
	}
	return p, true
}

// give takes an empty pipe back.
func (p *pipes) give(q pipe) {
	if len(p.spare) < sparePipes && q.w != none {
		p.spare = append(p.spare, q)
		return
	}
	p.drop(q)
}

// drop closes a pipe, empty or not.
func (p *pipes) drop(q pipe) {
	if q.w != none {
		p.made--
	}
	q.close()
}

// close closes the pipes that nobody holds.
func (p *pipes) close() {
	for _, q := range p.spare {
		p.drop(q)
	}
	p.spare = nil
}

func (p *pipe) close() {
	unix.Close(int(p.r))
	p.closeWrite()
}

// closeWrite closes the end to be written, so that whoever has the other sees the end
// of what it holds.
func (p *pipe) closeWrite() {
	if p.w != none {
		unix.Close(int(p.w))
		p.w = none
	}
}
