package flow

import (
	"errors"
	"iter"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ErrFull says that the table holds as many flows of a protocol as it may, or as
// many of TCP by frames.
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
	ways
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
	ID     uint64 // counts from 1, and is never used again in its table
	Opened time.Time

	// ToTarget and ToInitiator count payload bytes.
	ToTarget, ToInitiator atomic.Int64

	table  *Table
	way    atomic.Uint32 // Way
	ending atomic.Uint32 // see Kill
	rule   atomic.Int64  // see SetRule
	closed atomic.Bool
	killer Killer
}

// Way returns how the flow's bytes go now.
func (f *Flow) Way() Way { return Way(f.way.Load()) }

// SetWay says how the flow's bytes go from now on. It returns ErrFull, and changes
// nothing, where the table holds as many flows that go so as it may.
func (f *Flow) SetWay(w Way) error {
	t := f.table
	t.mu.Lock()
	defer t.mu.Unlock()
	before := f.Way()
	if w == before || f.closed.Load() {
		return nil
	}
	if t.isFullLocked(f.Proto, w) {
		return ErrFull
	}
	t.live[f.Proto][before]--
	t.live[f.Proto][w]++
	f.way.Store(uint32(w))
	return nil
}

// Close takes the flow out of its table. Further calls do nothing.
func (f *Flow) Close() {
	if f.closed.Swap(true) {
		return
	}
	t := f.table
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flows[f.Proto], f)
	t.stats[f.Proto].Live--
	t.live[f.Proto][f.Way()]--
	t.settleLocked(f)
}

// How many flows there may be by default.
const (
	// DefaultTCP connections cost, by the shortcut and idle, 2 descriptors each, of
	// which the usual hard limit is 524288 or 1048576, and less than 1 KB.
	DefaultTCP = 65536

	// DefaultFrames connections of 22 KB each make 360 MB.
	DefaultFrames = 16384

	// DefaultUDP address pairs have a descriptor each on the host, in the worst case.
	DefaultUDP = 8192

	// DefaultICMP echo identifiers: more at once are a flood.
	DefaultICMP = 256
)

// A Config limits a table. Zero means the default of each field.
type Config struct {
	MaxTCP    int // by either way; DefaultTCP
	MaxFrames int // of these, by frames; DefaultFrames
	MaxUDP    int // DefaultUDP
	MaxICMP   int // DefaultICMP

	// Full is called when a flow met a limit; it must not block. nil: nobody
	// asks.
	Full func(Proto)
}

// Stats count the flows of one protocol.
type Stats struct {
	Live    int    // flows now in the table
	Peak    int    // most flows at any one time
	Opened  uint64 // flows since the table was made
	Refused uint64 // flows that met the limit

	// Ended counts the payload of flows that are closed.
	Ended Bytes
}

// A Table holds the live flows. It is safe for concurrent use.
type Table struct {
	full func(Proto) // see Config.Full

	mu sync.Mutex
	// max is how many flows there may be.
	// +checklocks:mu
	max [protos]int
	// maxFrames is how many of TCP may go by frames.
	// +checklocks:mu
	maxFrames int
	// refusedFrames is how often there were as many.
	// +checklocks:mu
	refusedFrames uint64
	// +checklocks:mu
	flows [protos]map[*Flow]struct{}
	// live counts them.
	// +checklocks:mu
	live [protos][ways]int
	// +checklocks:mu
	stats [protos]Stats
	// +checklocks:mu
	last uint64 // id
	// rules count the flows of published ports.
	// +checklocks:mu
	rules map[int]*RuleStats
}

// New returns an empty table.
func New(cfg Config) *Table {
	orDefault := func(n, d int) int {
		if n <= 0 {
			return d
		}
		return n
	}
	if cfg.Full == nil {
		cfg.Full = func(Proto) {}
	}
	return &Table{
		full:      cfg.Full,
		max:       [protos]int{TCP: orDefault(cfg.MaxTCP, DefaultTCP), UDP: orDefault(cfg.MaxUDP, DefaultUDP), ICMP: orDefault(cfg.MaxICMP, DefaultICMP)},
		maxFrames: orDefault(cfg.MaxFrames, DefaultFrames),
		flows:     [protos]map[*Flow]struct{}{TCP: {}, UDP: {}, ICMP: {}},
		rules:     make(map[int]*RuleStats),
	}
}

// Open is OpenBy for a flow by frames.
func (t *Table) Open(k Key) (*Flow, error) { return t.OpenBy(k, ByFrames) }

// OpenBy enters a flow that goes by w, or returns ErrFull at the protocol's limit
// or the way's. The caller closes the flow. Two flows may have the same key for a
// moment, when the guest uses a port again before the flow before is gone.
func (t *Table) OpenBy(k Key, w Way) (*Flow, error) { return t.openAt(k, w, time.Now()) }

// openAt is OpenBy for a flow that began at a time.
func (t *Table) openAt(k Key, w Way, at time.Time) (*Flow, error) {
	if k.Proto >= protos {
		return nil, errors.New("open flow: unknown protocol")
	}
	full := t.full
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.stats[k.Proto]
	if s.Live >= t.max[k.Proto] || t.isFullLocked(k.Proto, w) {
		s.Refused++
		if t.isFullLocked(k.Proto, w) {
			t.refusedFrames++
		}
		full(k.Proto)
		return nil, ErrFull
	}
	t.last++
	f := &Flow{Key: k, ID: t.last, Opened: at, table: t}
	f.way.Store(uint32(w))
	t.live[k.Proto][w]++
	t.flows[k.Proto][f] = struct{}{}
	s.Opened++
	s.Live++
	s.Peak = max(s.Peak, s.Live)
	return f, nil
}

// isFullLocked tells whether there may be no more flows that go by w.
//
// +checklocks:t.mu
func (t *Table) isFullLocked(p Proto, w Way) bool {
	return p == TCP && w == ByFrames && t.live[TCP][ByFrames] >= t.maxFrames
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
	flows := t.allLocked()
	t.mu.Unlock()
	return func(yield func(*Flow) bool) {
		for _, f := range flows {
			if !yield(f) {
				return
			}
		}
	}
}

// +checklocks:t.mu
func (t *Table) allLocked() []*Flow {
	n := 0
	for _, of := range t.flows {
		n += len(of)
	}
	flows := make([]*Flow, 0, n)
	for _, of := range t.flows {
		for f := range of {
			flows = append(flows, f)
		}
	}
	return flows
}
