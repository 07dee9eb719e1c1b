package portfwd

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

const (
	// tickLength is how exact idle times are: a flow lives up to this much
	// longer.
	tickLength = time.Second

	// defaultUDPIdle is how long a flow lives without a datagram either way.
	// RFC 4787 REQ-5: not less than 2 minutes.
	defaultUDPIdle = 2 * time.Minute

	// unassuredIdle is the same for a client from outside until it goes on after an
	// answer, as Linux has it (nf_conntrack_udp_timeout): who was invented does not
	// hear what it is answered.
	unassuredIdle = 30 * time.Second

	// receiveBuffer is what waits in a published socket while we do not run, in
	// bytes. The kernel's default, 208 KiB, is less than what 1,000 clients send
	// at once. The kernel caps it at net.core.rmem_max.
	receiveBuffer = 4 << 20
)

// datagrams are the UDP sockets and flows of a Publisher.
//
// A flow is looked up under mu, and its sockets are used after mu is free;
// references keep them open so long.
type datagrams struct {
	p      *Publisher
	poller *socket.Poller
	idle   time.Duration
	now    atomic.Uint32 // ticks since the start
	outbox *outbox       // of the guest's device's goroutine; nil if nothing is held back

	evictions *rate.Limiter // of flows for new ones

	mu sync.RWMutex
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	lastID uint64
	// +checklocks:mu
	listeners map[uint64]*udpListener // by what the poller calls them
	// +checklocks:mu
	peers map[uint64]*udpFlow // by what the poller calls their sockets
	// +checklocks:mu
	guests map[pair]*udpFlow // those through the stack
	// +checklocks:mu
	flows map[*udpFlow]struct{} // all
}

// A pair names a flow through the stack as the guest sees it.
type pair struct{ source, target netip.AddrPort }

// A udpListener is a published socket with its flows.
type udpListener struct {
	*listener
	owner *datagrams
	flows map[client]*udpFlow // guarded by datagrams.mu
}

// A client is the other end of a published socket. The address that it writes
// to is part of it: answers come from there.
type client struct {
	address netip.AddrPort // IPv4 is not mapped
	local   netip.Addr
}

// A udpFlow is what one client and the target say to each other.
type udpFlow struct {
	listener *udpListener
	client   client
	to       socket.Address // of the client
	local    bool           // past the stack
	joined   atomic.Bool    // several datagrams went to the guest as one packet
	turned   bool           // the guest has refused it at its address of the other family
	pair     pair           // through the stack
	flow     *flow.Flow
	seen     atomic.Uint32 // tick of the last datagram either way
	answered atomic.Bool
	assured  atomic.Bool // the client has gone on after an answer

	// The rest is guarded by datagrams.mu. A local flow has a peer, a socket
	// that is connected to the target. Until it is open, datagrams wait in queue.
	gone  bool
	id    uint64
	peer  *socket.Socket
	queue []queued
}

func newDatagrams(p *Publisher) (*datagrams, error) {
	poller, err := socket.NewPoller()
	if err != nil {
		return nil, err
	}
	idle := p.cfg.UDPIdle
	if idle <= 0 {
		idle = defaultUDPIdle
	}
	d := &datagrams{p: p, poller: poller, idle: idle, evictions: rate.NewLimiter(flow.EvictionsPerSecond, flow.EvictionBurst)}
	if p.cfg.HoldBack {
		d.outbox = new(outbox)
	}
	d.mu.Lock() // nobody else has d yet, but checklocks cannot know
	defer d.mu.Unlock()
	d.listeners = make(map[uint64]*udpListener)
	d.peers = make(map[uint64]*udpFlow)
	d.guests = make(map[pair]*udpFlow)
	d.flows = make(map[*udpFlow]struct{})
	return d, nil
}

// listen begins to read a listener.
func (d *datagrams) listen(l *listener) error {
	l.socket.Datagrams()
	_ = unix.SetsockoptInt(l.socket.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return os.ErrClosed
	}
	d.lastID++
	l.id = d.lastID
	d.listeners[l.id] = &udpListener{listener: l, owner: d, flows: make(map[client]*udpFlow)}
	if err := d.poller.Add(l.socket.FD(), l.id); err != nil {
		delete(d.listeners, l.id)
		return err
	}
	return nil
}

// close ends a listener and its flows.
func (d *datagrams) close(l *listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ul := d.listeners[l.id]
	if ul == nil {
		return
	}
	delete(d.listeners, l.id)
	for _, f := range ul.flows {
		d.detachLocked(f)
	}
	_ = d.poller.Remove(l.socket.FD()) // fails only after its Close
	l.socket.Release()
}

// end makes read return. All listeners are closed.
func (d *datagrams) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.poller.Close()
}

// detachLocked ends a flow.
//
// +checklocks:d.mu
func (d *datagrams) detachLocked(f *udpFlow) {
	if f.gone {
		return
	}
	f.gone, f.queue = true, nil
	delete(d.flows, f)
	if f.listener.flows[f.client] == f {
		delete(f.listener.flows, f.client)
	}
	if d.guests[f.pair] == f {
		delete(d.guests, f.pair)
	}
	if f.peer != nil {
		delete(d.peers, f.id)
		_ = d.poller.Remove(f.peer.FD())
		f.peer.Release()
	}
	f.flow.Close()
	d.p.free()
}

// detach is detachLocked for who has not locked.
func (d *datagrams) detach(f *udpFlow) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.detachLocked(f)
}

// sweep lets a tick pass and ends the flows that were idle for too long.
func (d *datagrams) sweep() {
	now, assured, other := d.now.Add(1), ticks(d.idle), ticks(min(d.idle, unassuredIdle))
	d.mu.Lock()
	defer d.mu.Unlock()
	for f := range d.flows {
		idle := other
		if f.isAssured() {
			idle = assured
		}
		// The tick in which it was seen does not count, so it is never early.
		if now-f.seen.Load() > idle {
			d.detachLocked(f)
		}
	}
}

// ticks rounds up.
func ticks(d time.Duration) uint32 { return uint32((d + tickLength - 1) / tickLength) }

// touch marks a flow as used. It writes only once per tick, for the sake of
// the cache line.
func (d *datagrams) touch(f *udpFlow) {
	if now := d.now.Load(); f.seen.Load() != now {
		f.seen.Store(now)
	}
}
