package shortcut

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
)

// A DialerConfig says what a Dialer works with.
type DialerConfig struct {
	// Stack is where SYNs are put into the device.
	Stack *stack.Stack

	// Clients are the packet sockets of both families that copy SYNs, IPv4's
	// first. NewDialer takes them over, also when it fails.
	Clients []*os.File

	// Need asks for n sockets of a family, as in socket(2), which Supply gets. It must
	// not block. It is not called again before that, or before somebody has waited for
	// them in vain as long as Silence.
	Need func(family, n int)

	// Broken is called when the rules in the guest's namespace do not do what they
	// should, and the Dialer was disabled therefore. It must not block. nil
	// calls nobody.
	Broken func()
}

// DialStats count connections to the guest.
type DialStats struct {
	Connected atomic.Uint64 // the guest has taken them
	Refused   atomic.Uint64 // the guest has not
	Silent    atomic.Uint64 // no answer: left to the stack
	Doubted   atomic.Uint64 // of those, taken by the guest there
	Entered   atomic.Uint64 // SYNs put into the device, sent again or not
	Strange   atomic.Uint64 // copies of SYNs that are of nobody who dials
	Strayed   atomic.Uint64 // segments of joined connections that were put back
}

// A Dialer connects to the guest's programs from sockets inside its namespace, that
// stand for clients outside. Its methods are safe for concurrent use.
type Dialer struct {
	Stats DialStats

	cfg     DialerConfig
	bonds   *bonds
	copies  [familyCount]int // descriptors of packet sockets, non-blocking
	poller  *socket.Poller
	enabled atomic.Bool
	strikes atomic.Int32  // doubts since the last connection
	waiting chan struct{} // capacity 1: somebody waits

	connecting sync.WaitGroup // those who may use copies; nobody begins when it is over

	mu sync.Mutex
	// +checklocks:mu
	over bool
	// +checklocks:mu
	pools [familyCount]pool
	// +checklocks:mu
	pending map[uint64]*dial // the guest has not answered, by the poller's id
	// +checklocks:mu
	keys map[key]*dial // those whose SYN may come
	// +checklocks:mu
	lastID uint64
	// +checklocks:mu
	enabledAt time.Time
}

// Indices of the families.
const (
	ip4 = iota
	ip6
	familyCount
)

// index returns the index of an address's family.
func index(a netip.Addr) int {
	if a.Is4() {
		return ip4
	}
	return ip6
}

// A key tells whose a SYN is.
type key struct{ source, target netip.AddrPort }

// Errors of Dial that say nothing of the guest.
var (
	// ErrByStack says that only the stack can make this connection.
	ErrByStack = errors.New("shortcut: not for this connection")
)

// NewDialer returns a Dialer that is enabled. Run releases what it has.
func NewDialer(cfg DialerConfig) (*Dialer, error) {
	defer func() {
		for _, f := range cfg.Clients {
			f.Close()
		}
	}()
	switch {
	case cfg.Stack == nil:
		return nil, errors.New("shortcut: Stack is missing")
	case cfg.Need == nil:
		return nil, errors.New("shortcut: Need is missing")
	case len(cfg.Clients) == 0 || len(cfg.Clients) > familyCount:
		return nil, fmt.Errorf("shortcut: %d packet sockets, want one for each family", len(cfg.Clients))
	}
	if cfg.Broken == nil {
		cfg.Broken = func() {}
	}
	d := &Dialer{cfg: cfg, bonds: newBonds(), copies: [familyCount]int{-1, -1}, waiting: make(chan struct{}, 1)}
	d.mu.Lock() // nobody else has d yet, but checklocks cannot know
	d.pending, d.keys, d.lastID = make(map[uint64]*dial), make(map[key]*dial), familyCount
	d.mu.Unlock()
	if err := d.open(cfg.Clients); err != nil {
		d.close()
		return nil, fmt.Errorf("shortcut: %w", err)
	}
	d.enabled.Store(true)
	return d, nil
}

func (d *Dialer) open(clients []*os.File) (err error) {
	if d.poller, err = socket.NewPoller(); err != nil {
		return err
	}
	for i, f := range clients {
		if d.copies[i], err = socket.Dup(f); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dialer) close() {
	if d.poller != nil {
		d.poller.Close()
	}
	for _, fd := range d.copies {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// SetEnabled says whether Dial connects; what has begun is not touched. A Dialer that
// was disabled by Broken is enabled by this too.
func (d *Dialer) SetEnabled(on bool) {
	d.strikes.Store(0)
	d.bonds.suspended.Store(false)
	d.mu.Lock()
	defer d.mu.Unlock()
	if on && !d.enabled.Load() {
		d.enabledAt = time.Now()
	}
	d.enabled.Store(on)
}

// Suspend is Shortcut.Suspend for connections to the guest.
func (d *Dialer) Suspend() {
	d.SetEnabled(false)
	d.bonds.suspended.Store(true)
}

// isOfNow tells whether a connection began with the rules of now.
func (d *Dialer) isOfNow(f *flow.Flow) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return f.Opened.After(d.enabledAt)
}

// Doubt tells that the stack has connected to a target where Dial had no answer. After
// a few of those in a row the Dialer says so and takes no more.
func (d *Dialer) Doubt() {
	d.Stats.Doubted.Add(1)
	if d.strikes.Add(1) == tolerance {
		d.enabled.Store(false)
		d.cfg.Broken()
	}
}

// Run finishes what does not happen at once, until ctx ends. What is not finished then
// ends with ECANCELED. It owns two goroutines; both have returned when Run returns.
func (d *Dialer) Run(ctx context.Context) error {
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		d.watch(watched)
		d.poller.Close()
	})
	err := d.poll()
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	wg.Wait()
	for _, p := range d.abandon() {
		p.end(-1, syscall.ECANCELED)
	}
	d.connecting.Wait()
	d.close()
	return err
}

// abandon takes all that is not finished, and closes the sockets that nobody used.
func (d *Dialer) abandon() (left []*dial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true
	for i := range d.pools {
		p := &d.pools[i]
		for _, fd := range p.free {
			unix.Close(fd)
		}
		left = append(left, p.waiting...)
		p.free, p.waiting = nil, nil
	}
	for _, p := range d.pending {
		unix.Close(p.fd)
		left = append(left, p)
	}
	clear(d.pending)
	clear(d.keys)
	return left
}
