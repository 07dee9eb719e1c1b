package relay

import (
	"context"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// small is how much is copied through user space, in bytes. A read that
	// fills it makes a direction splice: splicing costs two calls and a pipe,
	// which ping-pong would feel (0.6x).
	small = 16 << 10

	// worthwhile is what a splice must move, in bytes, for the next one.
	worthwhile = 4 << 10

	// pipeSize is asked for each pipe, in bytes; 1 MiB made no difference. The
	// kernel gives less to a user whose pipes hold 64 MiB already
	// (pipe-user-pages-soft).
	pipeSize = 256 << 10

	// sparePipes is how many pipes are kept for the next one who needs one.
	sparePipes = 16
)

// A Splicer relays between two host sockets. The zero value is ready for use;
// Close releases what it keeps. It is safe for concurrent use.
type Splicer struct {
	buffers sync.Pool // of *[small]byte

	mu sync.Mutex
	// +checklocks:mu
	spare []pipe
}

// A pipe is empty whenever it is not in use.
type pipe struct{ r, w int }

func (p pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// A join is the two ends of one connection.
type join struct {
	life
	splicer *Splicer
}

// Run moves bytes between two stream sockets until both halves are closed, one
// end fails or ctx ends, then closes both; it takes them over. Outbound counts
// the bytes from a to b. It owns one goroutine besides its caller's. It
// returns true if the connection ended in order; if not, both ends are reset.
//
// An idle connection holds no buffer and no pipe.
func (s *Splicer) Run(ctx context.Context, a, b *os.File, count Counters) bool {
	defer a.Close()
	defer b.Close()
	rawA, errA := a.SyscallConn()
	rawB, errB := b.SyscallConn()
	if errA != nil || errB != nil {
		return false
	}
	j := &join{splicer: s}
	j.begin(a, b)
	stop := context.AfterFunc(ctx, j.abort)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { j.move(rawA, rawB, count.Outbound) })
	j.move(rawB, rawA, count.Inbound)
	wg.Wait()
	if !j.inOrder() {
		reset(rawA)
		reset(rawB)
		return false
	}
	return true
}

// Close closes the pipes that are kept. It comes after the last Run.
func (s *Splicer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.spare {
		p.close()
	}
	s.spare = nil
}

// move moves bytes one way.
func (j *join) move(from, to syscall.RawConn, count *atomic.Int64) {
	for {
		n, err := j.copy(from, to)
		count.Add(int64(n))
		if err == nil && n == small {
			err = j.splice(from, to, count)
		}
		switch err {
		case nil:
		case errTurn:
			runtime.Gosched()
		case io.EOF:
			_ = to.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
			j.end()
			j.watch(from)
			return
		default:
			j.abort()
			return
		}
	}
}

// copy waits for bytes and moves one buffer of them.
func (j *join) copy(from, to syscall.RawConn) (int, error) {
	var b *[small]byte
	n, err := 0, error(nil)
	waitErr := from.Read(func(fd uintptr) bool {
		b = j.splicer.buffer()
		n, err = receive(fd, b[:])
		if err == syscall.EAGAIN {
			j.splicer.buffers.Put(b)
			b = nil
			return false
		}
		return true
	})
	if b != nil {
		defer j.splicer.buffers.Put(b)
	}
	if waitErr != nil {
		return 0, waitErr
	}
	if err != nil {
		return 0, err
	}
	return n, sendFull(to, b[:n])
}

func (s *Splicer) buffer() *[small]byte {
	if b, ok := s.buffers.Get().(*[small]byte); ok {
		return b
	}
	return new([small]byte)
}

// splice moves bytes without copying until there are few or none left, which
// is no error, or its turn is over. Without a pipe it does nothing.
func (j *join) splice(from, to syscall.RawConn, count *atomic.Int64) error {
	p, err := j.splicer.pipe()
	if err != nil {
		return nil
	}
	for moved := 0; moved < turn; {
		n := 0
		if e := from.Control(func(fd uintptr) { n, err = spliceOnce(int(fd), p.w, pipeSize) }); e != nil {
			err = e
		}
		if err != nil || n == 0 {
			break
		}
		if err = drain(p, to, n); err != nil {
			p.close() // what is left in it belongs to nobody
			return err
		}
		count.Add(int64(n))
		if moved += n; n < worthwhile {
			j.splicer.keep(p)
			return nil
		}
	}
	j.splicer.keep(p)
	switch {
	case err == syscall.EAGAIN:
		return nil // copy waits for more, or for the FIN
	case err != nil:
		return err
	}
	return errTurn
}

// drain moves n bytes out of a pipe. It waits for the socket.
func drain(p pipe, to syscall.RawConn, n int) error {
	var err error
	waitErr := to.Write(func(fd uintptr) bool {
		for n > 0 {
			var moved int
			if moved, err = spliceOnce(p.r, int(fd), n); err != nil {
				return err != syscall.EAGAIN
			}
			if moved == 0 {
				err = io.ErrUnexpectedEOF
				return true
			}
			n -= moved
		}
		return true
	})
	if waitErr != nil {
		return waitErr
	}
	return err
}

// pipe returns an empty pipe.
func (s *Splicer) pipe() (pipe, error) {
	s.mu.Lock()
	if n := len(s.spare); n > 0 {
		p := s.spare[n-1]
		s.spare = s.spare[:n-1]
		s.mu.Unlock()
		return p, nil
	}
	s.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, os.NewSyscallError("pipe2", err)
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return pipe{fds[0], fds[1]}, nil
}

// keep takes an empty pipe back.
func (s *Splicer) keep(p pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spare) < sparePipes {
		s.spare = append(s.spare, p)
		return
	}
	p.close()
}
