package relay

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Stream is the guest's end. Its methods do not block; they return EAGAIN
// when there is nothing to do, and the channels tell when to try again.
// ReadTo returns io.EOF after the guest's FIN.
type Stream interface {
	ReadTo(w io.Writer) (int, error)
	WriteFrom(p Payload) (int, error)
	Readable() <-chan struct{}
	Writable() <-chan struct{}
	CloseWrite() error
	Err() error // what ended the connection early, or nil
	Abort()     // with RST
	Close()
}

// A Payload has exactly Len bytes to be read without blocking.
type Payload = interface {
	Read(b []byte) (int, error)
	Len() int
}

// Counters count the bytes of a connection.
type Counters struct {
	Outbound, Inbound *atomic.Int64
}

// chunk is how much is moved to the guest at once, in bytes: what a superframe
// holds behind its headers, as gVisor counts them.
const chunk = 65536 - 161

// turn is how much one direction moves before the others have their turn, in
// bytes: a fraction of a millisecond's work. Without a bound, a goroutine that
// always finds more to move runs until the scheduler takes it off, after 10 ms,
// and everything small waits for all that is large.
const turn = 512 << 10

// A pair is the two ends of one connection.
type pair struct {
	guest Stream
	host  syscall.RawConn
	count Counters

	deadline func(time.Time) error // of the host's socket

	mu sync.Mutex
	// +checklocks:mu
	ended int // directions that have ended in order
	// +checklocks:mu
	over bool
	// +checklocks:mu
	aborted bool // over before both had ended

	done chan struct{} // closed when over
}

// Run moves bytes until both halves are closed, one end fails or ctx ends,
// then closes both ends; it takes them over. It owns one goroutine besides its
// caller's. It returns true if the connection ended in order.
func Run(ctx context.Context, guest Stream, host *os.File, count Counters) bool {
	raw, err := host.SyscallConn()
	if err != nil {
		guest.Abort()
		host.Close()
		return false
	}
	p := &pair{guest: guest, host: raw, count: count, deadline: host.SetDeadline, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, p.abort)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(p.outbound)
	p.inbound()
	wg.Wait()
	inOrder := p.inOrder()
	if inOrder {
		guest.Close()
	} else {
		reset(raw)
		guest.Abort()
	}
	host.Close()
	return inOrder
}

// Reset closes a host socket with RST.
func Reset(host *os.File) {
	if raw, err := host.SyscallConn(); err == nil {
		reset(raw)
	}
	host.Close()
}

func reset(host syscall.RawConn) {
	_ = host.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// abort ends both directions at once.
func (p *pair) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.over, p.aborted = true, true
		p.finish()
	}
}

// end ends one direction in order.
func (p *pair) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended++
	if p.ended == 2 && !p.over {
		p.over = true
		p.finish()
	}
}

// inOrder tells whether both directions have ended in order.
func (p *pair) inOrder() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.aborted
}

// finish wakes both directions.
func (p *pair) finish() {
	close(p.done)
	_ = p.deadline(time.Unix(1, 0)) // ends waits for the host's socket
}

// wait waits for ready. It returns false when the relay is over.
func (p *pair) wait(ready <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	case <-p.done:
		return false
	}
}
