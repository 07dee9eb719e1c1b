package nat

import (
	"context"
	"net/netip"
	"os"
	"sync"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/policy"
)

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
	// +checklocks:mu
	adopted map[flow.Key]adoption
}

// NewTCP returns a TCP whose Handle may be given to stack.Stack.HandleTCP.
func NewTCP(cfg Config) (*TCP, error) {
	if err := cfg.Complete(); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	return &TCP{cfg: cfg, ctx: ctx, end: end, adopted: make(map[flow.Key]adoption)}, nil
}

// Run waits for ctx, then resets all connections and returns when they are
// gone.
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

// Handle answers one request and, if it leads to a connection, serves it until
// its end. It blocks.
func (t *TCP) Handle(r *stack.Request) {
	if !t.enter() {
		r.Drop()
		return
	}
	defer t.wg.Done()
	key := flow.Key{Proto: flow.TCP, Initiator: r.Source, Target: r.Destination}
	a, ok := t.take(key)
	if !ok {
		var err error
		if a.flow, a.host, err = t.open(key); err != nil {
			t.refuse(r, err)
			return
		}
	}
	defer a.flow.Close()
	t.serve(r, a)
}

// open asks the policy, enters a flow and dials its target.
func (t *TCP) open(key flow.Key) (*flow.Flow, *os.File, error) {
	target, err := t.cfg.Rules.Check(policy.TCP, key.Target)
	if err != nil {
		return nil, nil, err
	}
	f, err := t.cfg.Flows.Open(key)
	if err != nil {
		return nil, nil, err
	}
	host, err := dial(t.ctx, t.cfg.Bind, target)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, host, nil
}

// dial connects a socket of the host, from where b says, and sets it up for the
// relay. It waits as long as the kernel does, or until ctx ends.
func dial(ctx context.Context, b Bind, target netip.AddrPort) (*os.File, error) {
	fd, err := b.Stream(target.Addr())
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "tcp")
	if err := socket.Connect(ctx, f, target); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// serve completes the guest's handshake and moves bytes until both are done.
func (t *TCP) serve(r *stack.Request, a adoption) {
	guest, err := r.Accept()
	if a.done != nil {
		a.done(err == nil)
	}
	if err != nil {
		t.Stats.Abandoned.Add(1)
		relay.Reset(a.host)
		t.log(r, err)
		return
	}
	t.Stats.Connected.Add(1)
	guest.SetKeepAlive(socket.KeepAliveIdle, socket.KeepAliveInterval, socket.KeepAliveCount)
	f := a.flow
	inOrder := relay.Run(t.ctx, guest, a.host, relay.Counters{Outbound: &f.ToTarget, Inbound: &f.ToInitiator})
	t.cfg.Log.Debug("flow ended", "proto", "tcp", "initiator", r.Source, "target", r.Destination,
		"in_order", inOrder, "to_target", f.ToTarget.Load(), "to_initiator", f.ToInitiator.Load())
}

// refuse tells the guest why there is no connection.
func (t *TCP) refuse(r *stack.Request, err error) {
	answer := t.Stats.Answer(err, t.cfg.Denied)
	if answer.Reset {
		r.Refuse()
	} else {
		t.cfg.Unreachable(answer.Kind, r.Header)
		r.Drop()
	}
	t.log(r, err)
}

func (t *TCP) log(r *stack.Request, err error) {
	t.cfg.Log.Debug("no connection", "proto", "tcp", "initiator", r.Source, "target", r.Destination, "error", err)
}
