package shortcut

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/shortcut/mark"
)

// Stats count SYNs and what became of them.
type Stats struct {
	nat.TCPStats // Connected: given to the Mover

	PutBack   atomic.Uint64 // SYNs put back, retransmissions too
	Unknown   atomic.Uint64 // accepted, but not offered: reset
	Handed    atomic.Uint64 // offered in vain, and given to the stack
	Broken    atomic.Uint64 // of those, accepted by the guest there
	Overflown atomic.Uint64 // SYNs dropped at the limit of pending ones, where none was evicted
	Strayed   atomic.Uint64 // segments of joined connections that were put back
}

// A Shortcut joins connections of the guest's with the host's. Its methods are
// safe for concurrent use, but for Handle, which is the link's reader's.
type Shortcut struct {
	Stats Stats

	cfg       Config
	bonds     *bonds // the Mover's connections
	listeners []*listener
	poller    *socket.Poller
	enabled   atomic.Bool
	strikes   atomic.Int32  // broken ones since the last that was accepted
	doubtful  atomic.Bool   // the last ones were broken
	trial     atomic.Bool   // something was offered and not accepted at once
	waiting   chan struct{} // capacity 1: something was offered and not accepted at once
	evictions *rate.Limiter
	spare     atomic.Int64 // descriptor in reserve; -1 while it is in use

	handling sync.WaitGroup // Handle

	mu sync.Mutex
	// +checklocks:mu
	over bool
	// +checklocks:mu
	pending map[flow.Key]*attempt
	// +checklocks:mu
	dialing map[uint64]*attempt // those that the poller knows, by its id
	// +checklocks:mu
	lastID uint64
	// +checklocks:mu
	enabledAt time.Time
}

// A listener is one of Config.Listeners.
type listener struct {
	fd     int
	family int         // as in socket(2)
	paused atomic.Bool // the poller does not look at it
}

// New returns a Shortcut that is enabled. Its Handle may be given to
// stack.Stack.HandleSYN with Points, and its HandleStray to stack.Stack.HandleStray.
// Run releases what it has.
func New(cfg Config) (*Shortcut, error) {
	files := cfg.Listeners
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	s := &Shortcut{
		cfg: cfg, waiting: make(chan struct{}, 1), evictions: rate.NewLimiter(flow.EvictionsPerSecond, flow.EvictionBurst), lastID: uint64(len(files)),
		pending: make(map[flow.Key]*attempt), dialing: make(map[uint64]*attempt),
		bonds: newBonds(),
	}
	s.cfg.Listeners = nil
	s.spare.Store(-1)
	if err := s.open(files); err != nil {
		s.close()
		return nil, fmt.Errorf("shortcut: %w", err)
	}
	s.unproven()
	s.enabled.Store(true)
	return s, nil
}

// Points are the code points of the SYNs that Handle is for.
func Points() []uint8 { return []uint8{mark.Local, mark.Nested} }

// open makes the poller and adds the listeners to it, with their index as id.
func (s *Shortcut) open(files []*os.File) (err error) {
	if s.poller, err = socket.NewPoller(); err != nil {
		return err
	}
	for i, f := range files {
		fd, err := socket.Dup(f)
		if err != nil {
			return err
		}
		l := &listener{fd: fd}
		s.listeners = append(s.listeners, l)
		address, err := socket.LocalAddress(fd)
		if err != nil {
			return err
		}
		l.family = socket.Family(address.Addr())
		socket.Inner(fd) // what it accepts inherits this
		if err := s.poller.Add(fd, uint64(i)); err != nil {
			return err
		}
	}
	return s.reserve(s.listeners[0].fd)
}

// close releases what open made.
func (s *Shortcut) close() {
	if s.poller != nil {
		s.poller.Close()
	}
	for _, l := range s.listeners {
		unix.Close(l.fd)
	}
	if fd := s.spare.Swap(-1); fd >= 0 {
		unix.Close(int(fd))
	}
}

// SetEnabled says whether new connections may go this way; those that have begun
// are not touched. A Shortcut that was disabled by Broken is enabled by this too.
func (s *Shortcut) SetEnabled(on bool) {
	s.unproven()
	s.bonds.suspended.Store(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if on && !s.enabled.Load() {
		s.enabledAt = time.Now()
	}
	s.enabled.Store(on)
}

// Suspend disables a Shortcut whose rules were taken away for longer, until
// SetEnabled. A joined connection is reset when a segment of it shows that it needs
// them.
func (s *Shortcut) Suspend() {
	s.SetEnabled(false)
	s.bonds.suspended.Store(true)
}

// Enabled tells whether new connections go this way.
func (s *Shortcut) Enabled() bool { return s.enabled.Load() }

// Run finishes what does not happen at once, until ctx ends. Then it resets
// what is pending. It owns two goroutines; both have returned when Run returns,
// and the listeners are closed.
func (s *Shortcut) Run(ctx context.Context) error {
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		s.watch(watched)
		s.poller.Close()
	})
	err := s.poll()
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	wg.Wait()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.handling.Wait()
	s.abandon()
	s.close()
	return err
}

// Pending returns how many connections wait for their target or for the guest, of
// which there may be Config.MaxPending.
func (s *Shortcut) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// listenerFor returns the listener for a guest's address.
func (s *Shortcut) listenerFor(a netip.Addr) *listener {
	family := socket.Family(a)
	for _, l := range s.listeners {
		if l.family == family {
			return l
		}
	}
	return nil
}

// keyOf returns the key of the flow that a SYN begins.
func keyOf(syn *stack.SYN) flow.Key {
	return flow.Key{Proto: flow.TCP, Initiator: syn.Source, Target: syn.Destination}
}
