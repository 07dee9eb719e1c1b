package nat

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/policy"

	"golang.org/x/sys/unix"
)

// TCPStats count requests of the guest by how they were answered.
type TCPStats struct {
	Connected   atomic.Uint64 // handshake completed
	Denied      atomic.Uint64 // by policy: ICMP administratively prohibited
	Refused     atomic.Uint64 // by the target: RST
	Unreachable atomic.Uint64 // ICMP unreachable
	TimedOut    atomic.Uint64 // no answer from the target, none to the guest
	Exhausted   atomic.Uint64 // flow table or descriptors: RST
	Abandoned   atomic.Uint64 // by the guest, before the handshake was complete
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
// Each connection has two goroutines.
type TCP struct {
	Stats TCPStats

	cfg Config
	wg  sync.WaitGroup
	ctx context.Context // ends with Run: dials give up, connections are reset
	end context.CancelFunc

	mu sync.Mutex
	// +checklocks:mu
	over bool
}

// NewTCP returns a TCP whose Handle may be given to stack.Stack.HandleTCP.
func NewTCP(cfg Config) (*TCP, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	return &TCP{cfg: cfg, ctx: ctx, end: end}, nil
}

// Run waits for ctx, then resets all connections and returns when they are
// gone.
func (t *TCP) Run(ctx context.Context) error {
	<-ctx.Done()
	t.end()
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
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

// Handle answers one request and, if it leads to a connection, serves it until
// its end. It blocks.
func (t *TCP) Handle(r *stack.Request) {
	if !t.enter() {
		r.Drop()
		return
	}
	defer t.wg.Done()
	target, err := t.cfg.Rules.Check(policy.TCP, r.Destination)
	if err != nil {
		t.Stats.Denied.Add(1)
		t.unreachable(r, t.cfg.Denied)
		t.log(r, err)
		return
	}
	f, err := t.cfg.Flows.Open(flow.Key{Proto: flow.TCP, Initiator: r.Source, Target: r.Destination})
	if err != nil {
		t.Stats.Exhausted.Add(1)
		r.Refuse()
		t.log(r, err)
		return
	}
	defer f.Close()
	host, err := dial(t.ctx, t.cfg.Bind, target)
	if err != nil {
		t.refuse(r, err)
		t.log(r, err)
		return
	}
	t.serve(r, f, host)
}

// dial connects a socket of the host, from where b says, and sets it up for the
// relay. It waits as long as the kernel does, or until ctx ends.
func dial(ctx context.Context, b Bind, target netip.AddrPort) (*os.File, error) {
	f, err := socket.Open(socket.Family(target.Addr()), unix.SOCK_STREAM, func(fd int) error {
		socket.Stream(fd)
		return b.start(fd, target.Addr())
	})
	if err != nil {
		return nil, err
	}
	if err := socket.Connect(ctx, f, target); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// serve completes the guest's handshake and moves bytes until both are done.
func (t *TCP) serve(r *stack.Request, f *flow.Flow, host *os.File) {
	guest, err := r.Accept()
	if err != nil {
		t.Stats.Abandoned.Add(1)
		relay.Reset(host)
		t.log(r, err)
		return
	}
	t.Stats.Connected.Add(1)
	guest.SetKeepAlive(socket.KeepAliveIdle, socket.KeepAliveInterval, socket.KeepAliveCount)
	inOrder := relay.Run(t.ctx, guest, host, relay.Counters{Outbound: &f.ToTarget, Inbound: &f.ToInitiator})
	t.cfg.Log.Debug("flow ended", "proto", "tcp", "initiator", r.Source, "target", r.Destination,
		"in_order", inOrder, "to_target", f.ToTarget.Load(), "to_initiator", f.ToInitiator.Load())
}

// refuse tells the guest why the target was not reached.
func (t *TCP) refuse(r *stack.Request, err error) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		t.Stats.Refused.Add(1)
		r.Refuse()
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, context.Canceled):
		t.Stats.TimedOut.Add(1)
		r.Drop()
	case isExhausted(err):
		t.Stats.Exhausted.Add(1)
		r.Refuse()
	default:
		kind, ok := kindOf(err)
		if !ok {
			kind = HostUnreachable
		}
		t.Stats.Unreachable.Add(1)
		t.unreachable(r, kind)
	}
}

// isExhausted tells errors of this process or machine from those of the way.
func isExhausted(err error) bool {
	for _, e := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// unreachable answers a request with an ICMP error from the gateway.
func (t *TCP) unreachable(r *stack.Request, kind ErrorKind) {
	if b := icmpError(kind, r.Header, t.cfg.gatewayFor(r.Source.Addr()), 0); b != nil {
		_ = t.cfg.Guest.SendPacket(b) // counted by the link
	}
	r.Drop()
}

func (t *TCP) log(r *stack.Request, err error) {
	t.cfg.Log.Debug("no connection", "proto", "tcp", "initiator", r.Source, "target", r.Destination, "error", err)
}
