package nat

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/policy"
)

// A TCPConfig is what NewTCP needs.
type TCPConfig struct {
	Config

	// Mover moves the bytes of connections, which live until its Run ends.
	Mover *relay.Mover

	// MaxPending is the stack's, 0 means stack.MaxPending. Three quarters of it may
	// wait for their target, so that there is always room for the next one.
	MaxPending int
}

// A TCP answers the guest's connections from the host's sockets. The guest's
// handshake is completed only after the host's, so that the guest sees what
// became of it:
//
//	connected       SYN-ACK
//	refused         RST
//	unreachable     ICMP unreachable, with the host's reason
//	denied          ICMP administratively prohibited, or Config.Denied
//	no answer       nothing
//
// A request has a goroutine until it is answered; a connection has none.
type TCP struct {
	Stats TCPStats

	cfg TCPConfig
	wg  sync.WaitGroup  // of requests and connections
	ctx context.Context // ends with Run: dials give up
	end context.CancelFunc

	mu sync.Mutex
	// +checklocks:mu
	over bool
	// +checklocks:mu
	adopted map[flow.Key]adoption
	// dials are those whose target has not answered.
	// +checklocks:mu
	dials map[*dialing]struct{}
	// maxDials is how many there may be.
	// +checklocks:mu
	maxDials int
	// +checklocks:mu
	evictions *rate.Limiter
}

// NewTCP returns a TCP whose Handle may be given to stack.Stack.HandleTCP.
func NewTCP(cfg TCPConfig) (*TCP, error) {
	if err := cfg.Complete(); err != nil {
		return nil, err
	}
	if cfg.Mover == nil {
		return nil, errors.New("nat: Mover is missing")
	}
	ctx, end := context.WithCancel(context.Background())
	return &TCP{cfg: cfg, maxDials: cmp.Or(cfg.MaxPending, stack.MaxPending) * 3 / 4, ctx: ctx, end: end, adopted: make(map[flow.Key]adoption), dials: make(map[*dialing]struct{}), evictions: newEvictions()}, nil
}

// Run waits for ctx, then ends what waits for an answer and returns when all
// connections are gone. These are the Mover's, which ends at the same time.
func (t *TCP) Run(ctx context.Context) error {
	<-ctx.Done()
	t.end()
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.disown()
	t.wg.Wait()
	return nil
}

// enter counts a request that is being handled. It returns false when Run is
// over, after which nobody may be counted.
func (t *TCP) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.wg.Add(1)
	}
	return !t.over
}

// Handle answers one request and, if it leads to a connection, gives that to the
// Mover. It blocks until the target and the guest have answered.
func (t *TCP) Handle(r *stack.Request) {
	if !t.enter() {
		r.Drop()
		return
	}
	key := flow.Key{Proto: flow.TCP, Initiator: r.Source, Target: r.Destination}
	a, ok := t.take(key)
	if !ok {
		var err error
		if a, err = t.open(key); err != nil {
			t.refuse(r, err)
			t.wg.Done()
			return
		}
	}
	if err := t.serve(r, a); err != nil {
		t.log(r, err)
		a.flow.Close()
		t.wg.Done()
	}
}

// open asks the policy, enters a flow and dials its target.
func (t *TCP) open(key flow.Key) (a adoption, err error) {
	target, err := t.cfg.Rules.Check(policy.TCP, key.Target)
	if err != nil {
		return a, err
	}
	if a.flow, err = t.cfg.Flows.Open(key); err != nil {
		return a, err
	}
	if a.host, err = dial(&t.cfg.Config, target, t.wait); err != nil && !socket.IsReset(err) {
		a.flow.Close()
		return a, err
	}
	return a, nil
}

// A dialing is a dial that waits for its target.
type dialing struct{ giveUp func() }

// wait returns a context for a dial that has to wait. Where there are too many, any
// other is given up, not too often: of a flood to targets that never answer it is most likely one
// of those, and near targets answer long before their turn would come.
func (t *TCP) wait() (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(t.ctx)
	d := &dialing{cancel}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.dials) >= t.maxDials && t.evictions.Allow() {
		for other := range t.dials { // in no order
			delete(t.dials, other)
			other.giveUp()
			t.Stats.Evicted.Add(1)
			break
		}
	}
	t.dials[d] = struct{}{}
	return ctx, func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.dials, d)
	}
}

// dial connects a socket of the host, from where c says, and sets it up for the
// relay. Where the target does not answer at once it waits as long as the kernel
// does, or until the context of wait ends. The descriptor is the caller's.
func dial(c *Config, target netip.AddrPort, wait func() (ctx context.Context, done func())) (int, error) {
	fd, err := c.Stream(target.Addr())
	if err != nil {
		return -1, err
	}
	address := socket.NewAddress(target)
	switch err := socket.Start(fd, &address); err {
	case nil:
		return fd, nil
	case syscall.EINPROGRESS:
		ctx, done := wait()
		defer done()
		return connect(ctx, fd, target)
	default:
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
}

// connect waits until a socket that is being connected is, and takes it over.
func connect(ctx context.Context, fd int, target netip.AddrPort) (int, error) {
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close()
	if err := socket.Connect(ctx, f, target); err != nil {
		return -1, err
	}
	return socket.Dup(f)
}

// serve completes the guest's handshake and leaves both ends to the Mover. Where
// it fails, both are reset, and the flow is the caller's.
func (t *TCP) serve(r *stack.Request, a adoption) error {
	guest, err := r.Accept()
	if a.done != nil {
		a.done(err == nil)
	}
	if err != nil {
		t.Stats.Abandoned.Add(1)
		if a.host >= 0 {
			socket.Reset(a.host)
		}
		return err
	}
	t.Stats.Connected.Add(1)
	if a.host < 0 {
		guest.Abort()
		return os.NewSyscallError("connect", syscall.ECONNRESET) // at once
	}
	guest.SetKeepAlive(socket.KeepAliveIdle, socket.KeepAliveInterval, socket.KeepAliveCount)
	f := a.flow
	return t.cfg.Mover.JoinStream(guest, a.host, relay.Counters{Outbound: &f.ToTarget, Inbound: &f.ToInitiator, Owner: f}, func(inOrder bool) {
		t.cfg.Log.Debug("flow ended", "proto", "tcp", "initiator", f.Initiator, "target", f.Target,
			"in_order", inOrder, "to_target", f.ToTarget.Load(), "to_initiator", f.ToInitiator.Load())
		f.Close()
		t.wg.Done()
	})
}

// refuse tells the guest why there is no connection.
func (t *TCP) refuse(r *stack.Request, err error) {
	answer := t.Stats.Answer(err, t.cfg.Denied)
	if answer.Reset {
		r.Refuse()
	} else {
		if !t.cfg.Unreachable(answer.Kind, r.Header) {
			t.Stats.Suppressed.Add(1)
		}
		r.Drop()
	}
	t.log(r, err)
}

func (t *TCP) log(r *stack.Request, err error) {
	t.cfg.Log.Debug("no connection", "proto", "tcp", "initiator", r.Source, "target", r.Destination, "error", err)
}
