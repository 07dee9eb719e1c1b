package portfwd

import (
	"context"
	"os"
	"time"

	"taproot/stack/flow"
)

const (
	// refusePeriod is how often the guest's listeners are listed while ports are
	// paused: a server that starts is reached that much later.
	refusePeriod = 20 * time.Millisecond

	// refuseLongest is how long a port is paused before a client may try again.
	// Who listens cannot always be seen: behind the guest's own address
	// translation there may be another namespace.
	refuseLongest = 3 * time.Second

	// refusedQueue is how many refused clients wait to be looked into; the next
	// ones are forgotten, and their ports noticed at the client after.
	refusedQueue = 64
)

// A Refuser has published TCP ports refuse clients while nobody in the guest
// listens behind them. Only then is a client that the guest refuses not
// accepted first:
//
//	open ── a client is refused, and nobody listens ──► paused
//	  ▲                                                   │
//	  └── somebody listens anew, or 3 s have passed ──────┘
//
// So the first client in 3 s is accepted and reset, and the others are refused.
// Without refused clients it costs nothing.
type Refuser struct {
	table *Table
	diag  func(context.Context) (*os.File, error)
	scan  func() ([]Open, error) // of the open Scanner

	refused chan SocketID
	paused  map[SocketID]time.Time // until when
	known   map[Open]struct{}      // who listened when that was looked at last
}

// NewRefuser returns a Refuser of a Table's inbound rules. diag opens a
// NETLINK_SOCK_DIAG socket in the guest's namespace.
func NewRefuser(t *Table, diag func(context.Context) (*os.File, error)) *Refuser {
	return &Refuser{table: t, diag: diag, refused: make(chan SocketID, refusedQueue), paused: make(map[SocketID]time.Time)}
}

// Note tells of a client whose target refused it. It does not block, and whoever
// says so need not be trusted.
func (r *Refuser) Note(id SocketID) {
	select {
	case r.refused <- id:
	default:
	}
}

// Run looks after the ports until ctx ends, or the guest's listeners cannot be
// listed, which is the error: nothing is paused then, and Run may be called again.
func (r *Refuser) Run(ctx context.Context) error {
	var first SocketID
	select {
	case first = <-r.refused:
	case <-ctx.Done():
		return nil
	}
	if r.scan == nil {
		f, err := r.diag(ctx)
		if err != nil {
			return err
		}
		s := NewScanner(f)
		defer func() {
			s.Close()
			r.scan = nil // for another Run
		}()
		r.scan = func() ([]Open, error) { return s.Scan(flow.TCP) }
	}
	for {
		if err := r.look(ctx, first); err != nil {
			r.resumeAll()
			return err
		}
		var ok bool
		if first, ok = r.wait(ctx); !ok {
			return nil
		}
	}
}

// wait returns the next refused client, or an id of none when it is time to look
// again. It returns false when ctx has ended.
func (r *Refuser) wait(ctx context.Context) (id SocketID, ok bool) {
	var tick <-chan time.Time
	if len(r.paused) > 0 {
		timer := time.NewTimer(refusePeriod)
		defer timer.Stop()
		tick = timer.C
	}
	select {
	case id = <-r.refused:
		return id, true
	case <-tick:
		return id, true
	case <-ctx.Done():
		return id, false
	}
}

// look lists the guest's listeners, and pauses and resumes what is to be.
func (r *Refuser) look(ctx context.Context, refused SocketID) error {
	list, err := r.scan()
	if err != nil {
		return err
	}
	now := time.Now()
	fresh := r.remember(list)
	for id, until := range r.paused {
		if fresh || now.After(until) {
			delete(r.paused, id)
			r.table.resume(id)
		}
	}
	l, ok := r.table.listenerOf(refused)
	if _, paused := r.paused[refused]; !ok || paused || l.listens(list) {
		return nil
	}
	if r.table.pause(refused) {
		r.paused[refused] = now.Add(refuseLongest)
	}
	return nil
}

// remember notes who listens, and tells whether somebody does who did not.
func (r *Refuser) remember(list []Open) (fresh bool) {
	known := make(map[Open]struct{}, len(list))
	for _, o := range list {
		known[o] = struct{}{}
		if _, ok := r.known[o]; !ok {
			fresh = true
		}
	}
	r.known = known
	return fresh
}

func (r *Refuser) resumeAll() {
	for id := range r.paused {
		r.table.resume(id)
	}
	clear(r.paused)
}

// listens tells whether somebody in list may get what a listener accepts.
func (l Listener) listens(list []Open) bool {
	for _, o := range list {
		if o.Port == l.TargetPort && (l.Loopback || !o.Addr.IsLoopback()) {
			return true
		}
	}
	return false
}
