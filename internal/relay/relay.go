package relay

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Stream is the guest's end. Its methods do not block; they return EAGAIN
// when there is nothing to do. ReadTo returns io.EOF after the guest's FIN.
type Stream interface {
	ReadTo(w io.Writer) (int, error)
	WriteFrom(p Payload) (int, error)
	CloseWrite() error
	Err() error // what ended the connection early, or nil
	Abort()     // with RST
	Close()

	// Notify has f called whenever any of these may answer otherwise than
	// before. It is called once. f does not block, and may be called with the
	// stream's locks held and from several goroutines.
	Notify(f func())
}

// A Payload has exactly Len bytes to be read without blocking.
type Payload = interface {
	Read(b []byte) (int, error)
	Len() int
}

// Counters count the bytes of a connection.
type Counters struct {
	Outbound, Inbound *atomic.Int64

	// Owner, unless it is nil, gets what ends the connection early: a
	// *flow.Flow.
	Owner Owner
}

// An Owner may end a connection: Kill, which may be called at any time, has both
// ends reset.
type Owner interface {
	SetKiller(k interface{ Kill() })
}

// JoinStream is Join for the guest's end of a connection and a host socket.
// Outbound counts the bytes from the guest.
func (m *Mover) JoinStream(guest Stream, host int, count Counters, done func(inOrder bool)) error {
	p := &pair{guest: guest, host: host, count: count, done: done, streams: m.loop().streams}
	linger(host)
	p.news.Store(busy | guestNews)
	guest.Notify(func() { p.tell(guestNews) })
	if err := p.streams.add(p); err != nil {
		guest.Abort()
		unix.Close(host)
		return fmt.Errorf("join: %w", err)
	}
	p.streams.enqueue(p)
	if count.Owner != nil {
		count.Owner.SetKiller(p)
	}
	return nil
}

// Reset closes a host socket with RST.
func Reset(host *os.File) {
	if raw, err := host.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { linger(int(fd)) })
	}
	host.Close()
}
