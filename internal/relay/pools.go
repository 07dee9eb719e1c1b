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

	// pipeSize is asked for each pipe, in bytes; 1 MiB made no difference. The
	// kernel gives less to a user whose pipes hold 64 MiB already
	// (pipe-user-pages-soft).
	pipeSize = 256 << 10

	// sparePipes is how many pipes a loop keeps for the next one who needs one.
	sparePipes = 16

	// spareBuffers is how many buffers a loop keeps: 1 MiB.
	spareBuffers = 64
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

// A pipe is empty whenever it is not in use. The zero pipe is none.
type pipe struct{ r, w int }

func (p pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipes are the pipes of one loop that nobody holds.
type pipes struct{ spare []pipe }

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
