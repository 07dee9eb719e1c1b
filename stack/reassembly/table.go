package reassembly

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultLimit is how many bytes a Table holds by default: 64 of the largest
	// packets, as Linux does for each family (ipfrag_high_thresh).
	DefaultLimit = 4 << 20

	// Lifetime is how long a packet waits for the rest of its fragments.
	Lifetime = 15 * time.Second

	// What a packet and a fragment of it are counted for besides their bytes: what
	// the structures here and the pieces of memory that they are in need.
	packetCost, pieceCost = 512, 96

	// maxPieces is how many fragments a packet may have: what 64 KiB give at the
	// smallest MTU there is, 68 (RFC 791 §3.2), is 1366. Each is put in its place
	// among the others, so that there is an end to that.
	maxPieces = 1400
)

// A Config describes a Table.
type Config struct {
	// Limit is how many bytes may be held, with what they cost. Zero means
	// DefaultLimit.
	Limit int

	// Expired is told of each packet whose time was up and whose first fragment is
	// there, which it is given: an IP packet, and the callee's. It is called by Run.
	// nil tells nobody.
	Expired func(first []byte)
}

// Stats are numbers of a Table's. All may be read at any time.
type Stats struct {
	Held      atomic.Int64  // bytes now, with what they cost
	Evicted   atomic.Uint64 // packets that gave way to others
	Expired   atomic.Uint64 // packets whose time was up
	Malformed atomic.Uint64 // fragments that contradict themselves, or others
}

// A Table holds the fragments of packets that are not complete. It is safe for
// concurrent use.
type Table struct {
	Stats Stats

	expired func([]byte)
	wake    chan struct{} // capacity 1: there is something again

	mu sync.Mutex
	// +checklocks:mu
	limit int64
	// +checklocks:mu
	packets map[key]*list.Element
	// +checklocks:mu
	order *list.List // of *partial, the oldest first
}

// New returns a Table.
func New(cfg Config) *Table {
	t := &Table{
		limit: int64(cfg.Limit), expired: cfg.Expired, wake: make(chan struct{}, 1),
		packets: make(map[key]*list.Element), order: list.New(),
	}
	if cfg.Limit <= 0 {
		t.limit = DefaultLimit
	}
	if t.expired == nil {
		t.expired = func([]byte) {}
	}
	return t
}

// Add looks at an IP packet, which stays the caller's. One that is no fragment it
// leaves to the caller. Otherwise the packet is taken, and whole is the one that it
// completes, which is the caller's; nil if that is not so.
func (t *Table) Add(packet []byte) (whole []byte, taken bool) {
	p, bad := parse(packet)
	switch {
	case bad:
		t.Stats.Malformed.Add(1)
		return nil, true
	case p == nil:
		return nil, false
	case p.offset == 0 && !p.more: // RFC 6946: an atomic fragment is alone
		whole = join(p.head, p.nextAt, []part{{data: p.data}}, len(p.data))
	default:
		whole = t.add(p)
	}
	if whole != nil && isFragment(whole) {
		t.Stats.Malformed.Add(1)
		return nil, true
	}
	return whole, true
}

// isFragment tells whether a packet is a fragment again.
func isFragment(packet []byte) bool {
	p, bad := parse(packet)
	return p != nil || bad
}

// add keeps a piece, or returns the packet that it completes.
func (t *Table) add(p *piece) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.packets[p.key]
	if !ok {
		e = t.begin(p.key)
	}
	packet := e.Value.(*partial)
	before := packet.cost
	if !packet.put(p) {
		t.Stats.Malformed.Add(1)
		t.forget(e)
		return nil
	}
	t.Stats.Held.Add(packet.cost - before)
	if packet.isComplete() {
		t.forget(e)
		whole := packet.whole()
		if whole == nil {
			t.Stats.Malformed.Add(1)
		}
		return whole
	}
	for t.Stats.Held.Load() > t.limit {
		t.Stats.Evicted.Add(1)
		t.forget(t.order.Front())
	}
	return nil
}

// begin adds a packet without a piece.
//
// +checklocks:t.mu
func (t *Table) begin(k key) *list.Element {
	packet := &partial{key: k, begun: time.Now(), cost: packetCost, total: -1}
	e := t.order.PushBack(packet)
	t.packets[k] = e
	t.Stats.Held.Add(packet.cost)
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return e
}

// forget removes a packet.
//
// +checklocks:t.mu
func (t *Table) forget(e *list.Element) {
	packet := t.order.Remove(e).(*partial)
	delete(t.packets, packet.key)
	t.Stats.Held.Add(-packet.cost)
}

// Run forgets packets whose time is up, until ctx ends. While there are none, it
// sleeps.
func (t *Table) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if next := t.expire(time.Now()); next > 0 {
			timer.Reset(next)
		}
	}
}

// expire forgets the packets whose time is up, and returns how long the next has
// yet, 0 if there is none.
func (t *Table) expire(now time.Time) time.Duration {
	for {
		packet, next := t.oldest(now)
		if packet == nil {
			return next
		}
		t.Stats.Expired.Add(1)
		if first := packet.first(); first != nil {
			t.expired(first)
		}
	}
}

// oldest removes the oldest packet if its time is up, or returns how long it has
// yet.
func (t *Table) oldest(now time.Time) (*partial, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.order.Front()
	if e == nil {
		return nil, 0
	}
	packet := e.Value.(*partial)
	if left := packet.begun.Add(Lifetime).Sub(now); left > 0 {
		return nil, left
	}
	t.forget(e)
	return packet, 0
}
