package stack

import (
	"cmp"
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// lookEvery is how often a keeper looks at the memory in use. One core moves
	// 200 MB in that time, by which the budget may be exceeded for a moment.
	lookEvery = 200 * time.Millisecond

	// fewConns connections are not looked after: with 4 MiB each way they hold
	// 128 MiB at most, and an idle engine stays asleep.
	fewConns = 16

	// smallBuffer is what a connection has each way when memory is short, in bytes:
	// one superframe, with which one flow still made 2 Gbit/s.
	smallBuffer = 64 << 10

	// worthEnding is what a connection must hold for its end to help, in bytes.
	worthEnding = 16 << 10
)

// A Memory says how much of a budget is in use. All may be read at any time.
type Memory struct {
	Budget uint64        // bytes; 0 is none
	Used   atomic.Uint64 // bytes at the last look, with garbage if there is room for it
	Tight  atomic.Uint64 // how often buffers were made small
	Ended  atomic.Uint64 // connections that were reset for the others' sake
}

// A keeper keeps the buffers of connections within a budget of live memory. When
// the half of it is allocated, all buffers are made small, and so the windows; when
// all of it is used after a garbage collection, connections that hold much are reset: first those that nobody
// owns any more, then the ones that have been idle for longest.
//
// What is measured is the memory of the whole process: gVisor does not tell what a
// connection has to send.
type keeper struct {
	Memory
	measure func() uint64 // bytes
	release func()        // collects garbage
	look    chan struct{} // capacity 1: there are many connections

	mu sync.Mutex
	// +checklocks:mu
	conns map[*Conn]struct{}
	tight atomic.Bool
}

func newKeeper(budget uint64) *keeper {
	k := &keeper{measure: measure, release: debug.FreeOSMemory, look: make(chan struct{}, 1), conns: make(map[*Conn]struct{})}
	k.Budget = budget
	return k
}

// measure returns the bytes of the heap that are allocated, garbage with them. It
// stops all goroutines for some 20 us; package runtime/metrics, which would not, makes
// a hundred allocations at the start of every process that imports it.
func measure() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// add looks after a connection from now on.
func (k *keeper) add(c *Conn) {
	c.keeper = k
	if k.Budget == 0 {
		return
	}
	k.mu.Lock()
	k.conns[c] = struct{}{}
	many := len(k.conns) >= fewConns
	k.mu.Unlock()
	if k.tight.Load() {
		c.setBuffers(smallBuffer)
	}
	if many {
		select {
		case k.look <- struct{}{}:
		default:
		}
	}
}

// remove ends what add began.
func (k *keeper) remove(c *Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

// run looks after the memory until ctx ends.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-k.look:
		case <-ctx.Done():
			return
		}
		for k.keep(time.Now()) {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// keep looks once. It tells whether there is reason to look again soon.
func (k *keeper) keep(now time.Time) bool {
	conns := k.all()
	used := k.measure()
	if used > k.Budget {
		k.release()
		used = k.measure()
	}
	k.Used.Store(used)
	switch tight := k.tight.Load(); {
	case !tight && used > k.Budget/2:
		k.Tight.Add(1)
		k.squeeze(true)
	case tight && used < k.Budget/4:
		k.squeeze(false)
		k.release()
	}
	if k.tight.Load() {
		for _, c := range conns {
			c.observe(now)
		}
	}
	if used > k.Budget {
		k.relieve(conns, used-k.Budget/4*3)
	}
	return len(conns) >= fewConns || k.tight.Load()
}

// all returns the connections there are. It forgets those that are over.
func (k *keeper) all() []*Conn {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := make([]*Conn, 0, len(k.conns))
	for c := range k.conns {
		if c.closed.Load() && c.isOver() {
			delete(k.conns, c)
			continue
		}
		list = append(list, c)
	}
	return list
}

// squeeze makes all buffers small, or as large as new connections have them. One
// that comes meanwhile sees for itself.
func (k *keeper) squeeze(tight bool) {
	k.tight.Store(tight)
	size := int64(receiveWindow)
	if tight {
		size = smallBuffer
	}
	for _, c := range k.all() {
		c.setBuffers(size)
	}
}

// A holding is a connection and what it holds.
type holding struct {
	conn  *Conn
	bytes uint64
	owned bool
}

// relieve resets connections that hold so many bytes together.
func (k *keeper) relieve(conns []*Conn, bytes uint64) {
	var list []holding
	for _, c := range conns {
		if h := (holding{c, c.held(), !c.closed.Load()}); h.bytes >= worthEnding {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b holding) int {
		if a.owned != b.owned {
			if b.owned {
				return -1
			}
			return 1
		}
		return cmp.Or(a.conn.idle.Compare(b.conn.idle), cmp.Compare(b.bytes, a.bytes))
	})
	for _, h := range list {
		k.Ended.Add(1)
		h.conn.ep.Abort() // its owner hears of it as of a reset
		if h.bytes >= bytes {
			return
		}
		bytes -= h.bytes
	}
}

// observe notes whether a connection has moved since the last time.
func (c *Conn) observe(now time.Time) {
	if moved := c.moved.Load(); moved != c.seen || c.idle.IsZero() {
		c.seen, c.idle = moved, now
	}
}

// held returns how many bytes a connection holds at most: what was received, and
// what may not have been acknowledged. gVisor only tells whether that is as much as
// the send buffer, which is small by then, and whether our FIN is acknowledged.
func (c *Conn) held() uint64 {
	received, err := c.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	if err != nil {
		received = 0
	}
	const largest = 4 << 20 // of a send buffer, see setOptions
	sent := uint64(0)
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		sent = c.written.Load()
	case tcp.StateEstablished, tcp.StateCloseWait:
		if c.ep.Readiness(waiter.WritableEvents)&waiter.WritableEvents == 0 {
			sent = c.written.Load()
		}
	}
	return uint64(max(received, 0)) + min(sent, largest)
}

// setBuffers sets the size of both buffers in bytes, of which gVisor accounts for
// its own structures too.
func (c *Conn) setBuffers(size int64) {
	o := c.ep.SocketOptions()
	o.SetReceiveBufferSize(size, true)
	o.SetSendBufferSize(size, true)
}

// isOver tells whether gVisor has nothing left to do for a connection.
func (c *Conn) isOver() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
		return true
	}
	return false
}
