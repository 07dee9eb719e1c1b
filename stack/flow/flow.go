package flow

import (
	"errors"
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFull says that the table holds as many flows of a protocol as it may.
var ErrFull = errors.New("flow table full")

// A Proto is the protocol of a flow.
type Proto uint8

// The protocols that flows have. ICMP stands for echo in both families.
const (
	TCP Proto = iota
	UDP
	ICMP
	protos
)

// String returns the protocol's name in lower case.
func (p Proto) String() string {
	return [...]string{"tcp", "udp", "icmp", "unknown"}[min(p, protos)]
}

// A Key identifies a flow. For ICMP both ports are the echo identifier.
type Key struct {
	Proto     Proto
	Initiator netip.AddrPort
	Target    netip.AddrPort
}

// A Way is how the bytes of a flow go.
type Way uint32

// The ways of TCP. Flows of other protocols are at ByFrames.
const (
	ByFrames Way = iota // through the stack
	Shortcut            // from socket to socket, kernel to kernel
)

// String returns the way in a word.
func (w Way) String() string {
	if w == Shortcut {
		return "shortcut"
	}
	return "frames"
}

// A Flow is an entry of a Table. Its counters may be used concurrently.
type Flow struct {
	Key
	Opened time.Time

	// ToTarget and ToInitiator count payload bytes.
	ToTarget, ToInitiator atomic.Int64

	table  *Table
	way    atomic.Uint32 // Way
	closed atomic.Bool
}

// Way returns how the flow's bytes go now.
func (f *Flow) Way() Way { return Way(f.way.Load()) }

// SetWay says how the flow's bytes go.
func (f *Flow) SetWay(w Way) { f.way.Store(uint32(w)) }

// Close takes the flow out of its table. Further calls do nothing.
func (f *Flow) Close() {
	if f.closed.Swap(true) {
		return
	}
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	delete(f.table.flows, f)
	f.table.stats[f.Proto].Live--
}

// A Config limits a table. Zero means the default of each field.
type Config struct {
	// MaxTCP is 16384 by default: 22 KB each on the stack path make 360 MB.
	MaxTCP int

	// MaxUDP is 8192 by default: one descriptor each on the host, in the
	// worst case, under the usual hard limit of 524288 or 1048576.
	MaxUDP int

	// MaxICMP is 256 by default: more echo identifiers at once is a flood.
	MaxICMP int
}

// Stats count the flows of one protocol.
type Stats struct {
	Live    int    // flows now in the table
	Peak    int    // most flows at any one time
	Opened  uint64 // flows since the table was made
	Refused uint64 // flows that met the limit
}

// A Table holds the live flows. It is safe for concurrent use.
type Table struct {
	max [protos]int

	mu sync.Mutex
	// +checklocks:mu
	flows map[*Flow]struct{}
	// +checklocks:mu
	stats [protos]Stats
}

// New returns an empty table.
func New(cfg Config) *Table {
	orDefault := func(n, d int) int {
		if n <= 0 {
			return d
		}
		return n
	}
	return &Table{
		max:   [protos]int{TCP: orDefault(cfg.MaxTCP, 16384), UDP: orDefault(cfg.MaxUDP, 8192), ICMP: orDefault(cfg.MaxICMP, 256)},
		flows: make(map[*Flow]struct{}),
	}
}

// Open enters a flow, or returns ErrFull at the protocol's limit. The caller
// closes the flow. Two flows may have the same key for a moment, when the
// guest uses a port again before the flow before is gone.
func (t *Table) Open(k Key) (*Flow, error) {
	if k.Proto >= protos {
		return nil, errors.New("open flow: unknown protocol")
	}
	limit := t.max[k.Proto]
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.stats[k.Proto]
	if s.Live >= limit {
		s.Refused++
		return nil, ErrFull
	}
	f := &Flow{Key: k, Opened: time.Now(), table: t}
	t.flows[f] = struct{}{}
	s.Opened++
	s.Live++
	s.Peak = max(s.Peak, s.Live)
	return f, nil
}

// Stats returns the counters of one protocol.
func (t *Table) Stats(p Proto) Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p >= protos {
		return Stats{}
	}
	return t.stats[p]
}

// Len returns the number of live flows of a protocol.
func (t *Table) Len(p Proto) int { return t.Stats(p).Live }

// All ranges over the flows that were live when it was called, in no order.
func (t *Table) All() iter.Seq[*Flow] {
	t.mu.Lock()
	flows := make([]*Flow, 0, len(t.flows))
	for f := range t.flows {
		flows = append(flows, f)
	}
	t.mu.Unlock()
	return func(yield func(*Flow) bool) {
		for _, f := range flows {
			if !yield(f) {
				return
			}
		}
	}
}
