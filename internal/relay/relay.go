package relay

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

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
	life
	guest Stream
	host  syscall.RawConn
	count Counters

	hostShut atomic.Bool // before the host is told that there is no more
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
	p := &pair{guest: guest, host: raw, count: count}
	p.begin(host)
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
