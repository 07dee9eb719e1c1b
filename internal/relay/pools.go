package relay

import (
	"golang.org/x/sys/unix"
)

// buffers are the buffers of one loop that nobody holds.
type buffers struct{ spare []*[small]byte }

// spareBuffers is how many buffers a loop keeps: 1 MiB.
const spareBuffers = 64

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

// pipes are the pipes of one loop: those that nobody holds, and how many there
// are.
type pipes struct {
	spare []pipe
}

// take returns an empty pipe. Where the process or the user may have no more
// pipes it returns false.
func (p *pipes) take() (pipe, bool) {
	if n := len(p.spare); n > 0 {
		q := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return q, true
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, false
	}
	q := pipe{fds[0], fds[1]}
	_, _ = unix.FcntlInt(uintptr(q.w), unix.F_SETPIPE_SZ, pipeSize)
	return q, true
}

// give takes an empty pipe back.
func (p *pipes) give(q pipe) {
	if len(p.spare) < sparePipes {
		p.spare = append(p.spare, q)
		return
	}
	q.close()
}

func (p *pipes) close() {
	for _, q := range p.spare {
		q.close()
	}
	p.spare = nil
}
