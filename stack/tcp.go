package stack

import (
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// receiveWindow is what a connection advertises at first, in bytes.
const receiveWindow = 1 << 20

// A Request is the guest's SYN, not answered yet. Exactly one of Accept,
// Refuse and Drop is called.
type Request struct {
	Source, Destination netip.AddrPort

	// Header is the SYN's IP header and the first 8 bytes behind it: what an
	// ICMP error about it quotes.
	Header []byte

	stack *Stack
	req   *tcp.ForwarderRequest
}

// HandleTCP sets who gets requests. The handler may block, as each request has a
// goroutine; the guest's retransmissions meanwhile are
// swallowed.
func (s *Stack) HandleTCP(h func(*Request)) {
	s.workers = newWorkers(h)
	forwarder := tcp.NewForwarder(s.stack, receiveWindow, s.maxPending, func(req *tcp.ForwarderRequest) {
		id := req.ID()
		s.workers.serve(&Request{
			Source:      netip.AddrPortFrom(fromAddress(id.RemoteAddress), id.RemotePort),
			Destination: netip.AddrPortFrom(fromAddress(id.LocalAddress), id.LocalPort),
			Header:      s.head(id),
			stack:       s,
			req:         req,
		})
	})
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
		if flags&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
			return s.takeStray(id, pkt) // or answered with RST
		}
		kept := s.keepHead(id, pkt)
		taken := forwarder.HandlePacket(id, pkt)
		if kept && !taken { // malformed
			s.dropHead(id)
		}
		return taken
	})
}

// keepHead keeps the first bytes of a SYN for its request, unless there are some.
func (s *Stack) keepHead(id stack.TransportEndpointID, pkt *stack.PacketBuffer) (kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.heads[id]; ok || len(s.heads) >= s.maxPending {
		return false
	}
	s.heads[id] = appendHeader(nil, pkt)
	return true
}

// dropHead ends what keepHead began.
func (s *Stack) dropHead(id stack.TransportEndpointID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.heads, id)
}

// head returns what keepHead kept.
func (s *Stack) head(id stack.TransportEndpointID) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heads[id]
}

// Refuse answers with RST: nobody listens at the destination.
func (r *Request) Refuse() { r.complete(true) }

// Drop gives no answer: the guest sends its SYN again, or gives up.
func (r *Request) Drop() { r.complete(false) }

func (r *Request) complete(reset bool) {
	id := r.req.ID()
	r.req.Complete(reset)
	r.stack.dropHead(id) // not before: what is kept for a SYN that is swallowed would stay
}

// A Conn is the guest's end of a connection: what it writes is read here. One
// goroutine may read while another writes.
type Conn struct {
	ep    tcpip.Endpoint
	queue waiter.Queue

	watcher   waiter.Entry // of Notify
	watched   bool
	closeOnce sync.Once
	aborted   atomic.Bool // by the guest's RST after its FIN

	keeper  *keeper
	written atomic.Uint64 // bytes that were given to the endpoint
	moved   atomic.Uint64 // and those that were taken from it as well
	closed  atomic.Bool   // nobody owns it any more
	seen    uint64        // moved, when it was looked at last; the keeper's
	idle    time.Time     // since when moved is the same; the keeper's
}

// SetKeepAlive makes the connection probe a guest that was silent for idle,
// and reset it after count probes without an answer.
func (c *Conn) SetKeepAlive(idle, interval time.Duration, count int) {
	i, v := tcpip.KeepaliveIdleOption(idle), tcpip.KeepaliveIntervalOption(interval)
	_ = c.ep.SetSockOpt(&i)
	_ = c.ep.SetSockOpt(&v)
	_ = c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, count)
	c.ep.SocketOptions().SetKeepAlive(true)
}

// anything are the events that concern a reader or a writer.
const anything = waiter.ReadableEvents | waiter.WritableEvents | waiter.EventHUp | waiter.EventErr

// A listener calls a function for each event.
type listener func()

// NotifyEvent implements waiter.EventListener.
func (l listener) NotifyEvent(waiter.EventMask) { l() }

// Notify has f called after something has come that ReadTo may return, be it an
// error, and when WriteFrom may have become possible again; also when neither
// is so. f must not block nor use the connection: it is called with its locks
// held, from several goroutines. Notify is called at most once.
func (c *Conn) Notify(f func()) {
	c.watcher.Init(listener(f), anything)
	c.watched = true
	c.queue.EventRegister(&c.watcher)
}

// ReadTo gives w what the guest has sent, piece by piece and without a copy,
// and returns the number of bytes that w took. It returns EAGAIN when there is
// nothing, and io.EOF when the guest has sent its FIN and all before it was
// read. Write must not block and not keep its argument; it takes less than all
// only together with an error, after which the rest stays in the connection.
// That error is not returned: w knows.
func (c *Conn) ReadTo(w io.Writer) (int, error) {
	res, err := c.ep.Read(w, tcpip.ReadOptions{})
	c.moved.Add(uint64(res.Count))
	switch err.(type) {
	case nil:
		return res.Count, nil
	case *tcpip.ErrClosedForReceive:
		return 0, io.EOF
	case *tcpip.ErrBadBuffer:
		return 0, nil // w took nothing
	}
	return 0, toError(err)
}

// A Payload has bytes for the guest. Len says how many, and Read must deliver
// them all, without blocking, unless it fails.
type Payload = interface {
	Read(b []byte) (int, error)
	Len() int
}

// WriteFrom sends bytes of p to the guest, as many as fit its window and the
// send buffer, and returns how many it took. It returns EAGAIN when nothing
// fits.
func (c *Conn) WriteFrom(p Payload) (int, error) {
	n, err := c.ep.Write(p, tcpip.WriteOptions{})
	c.written.Add(uint64(n))
	c.moved.Add(uint64(n))
	return int(n), toError(err)
}

// CloseWrite sends FIN to the guest after all that was written.
func (c *Conn) CloseWrite() error { return toError(c.ep.Shutdown(tcpip.ShutdownWrite)) }

// Err returns the error that ended the connection, nil while it lives or when
// both sides closed it.
func (c *Conn) Err() error {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateError:
		return c.hardError()
	case tcp.StateClose:
		// After the guest's FIN, its RST makes this state too, with an error
		// that is told once.
		if c.ep.LastError() != nil {
			c.aborted.Store(true)
		}
		if c.aborted.Load() {
			return syscall.ECONNRESET
		}
	}
	return nil
}

func (c *Conn) hardError() error {
	if err := c.ep.LastError(); err != nil {
		return toError(err)
	}
	return toError(&tcpip.ErrConnectionReset{})
}

// Abort sends RST to the guest and forgets the connection.
func (c *Conn) Abort() {
	c.closeOnce.Do(func() {
		c.unregister()
		c.ep.Abort()
		c.leave(true)
	})
}

// Close closes the connection in order: what was written is still delivered.
func (c *Conn) Close() {
	c.closeOnce.Do(func() {
		c.unregister()
		c.ep.Close()
		c.leave(false)
	})
}

// leave says that nobody owns the connection any more. What the guest has not read
// yet the keeper looks after until then.
func (c *Conn) leave(over bool) {
	c.closed.Store(true)
	if c.keeper != nil && (over || c.isOver()) {
		c.keeper.remove(c)
	}
}

func (c *Conn) unregister() {
	if c.watched {
		c.queue.EventUnregister(&c.watcher)
	}
}
