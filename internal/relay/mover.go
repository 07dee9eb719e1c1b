package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
)

// A MoverConfig is what NewMover needs.
type MoverConfig struct {
	// Loops is how many event loops share the connections; 0 means as many as
	// the runtime uses processors (GOMAXPROCS).
	Loops int

	// Occupied is told when a loop begins to wait in a system call of its own (1),
	// which takes a processor from the runtime, and when it ends (-1). It is called
	// by the loops' goroutines, and gives the runtime one more or takes it back. nil:
	// loops wait in the runtime's poller only, which is slower for small messages.
	Occupied func(change int)

	// Descriptors is what the numbers of pipes' descriptors must stay below, which
	// the kernel gives the lowest first: where there are no more, bytes are copied. 0
	// is no bound.
	Descriptors int
}

// A Mover relays between pairs of stream sockets. It is safe for concurrent
// use.
type Mover struct {
	loops []*loop
	next  atomic.Uint32 // number of the connection, which chooses the loop
	keeps atomic.Bool   // see Keep
}

// NewMover returns a Mover without connections, whose Run is to be called once:
// it releases what the Mover takes.
func NewMover(cfg MoverConfig) (*Mover, error) {
	n := cfg.Loops
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	m := &Mover{}
	for range n {
		l, err := newLoop()
		if err != nil {
			for _, l := range m.loops {
				l.discard()
			}
			return nil, fmt.Errorf("relay: %w", err)
		}
		l.vigil.occupied, l.pipes.below, l.keeps = cfg.Occupied, cfg.Descriptors, &m.keeps
		m.loops = append(m.loops, l)
	}
	return m, nil
}

// Run moves bytes until ctx ends, then resets all connections, but those that it is
// to Keep, and returns nil. It fails only if epoll does. It owns two goroutines for each loop.
func (m *Mover) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(m.loops))
	var wg, streams sync.WaitGroup
	for i, l := range m.loops {
		streams.Go(l.streams.run)
		wg.Go(func() {
			defer cancel() // one that fails ends all
			errs[i] = l.run()
		})
	}
	<-ctx.Done()
	for _, l := range m.loops {
		l.streams.stop()
	}
	streams.Wait() // they use the loops' descriptors
	for _, l := range m.loops {
		l.stop()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Join moves bytes between two non-blocking connected stream sockets until
// both halves are closed or one end fails, then closes both; nobody else may
// use them any more. Where it fails, both are reset and done is not called.
//
// Outbound counts the bytes from a to b. done is called once, when both are
// closed, and learns whether the connection ended in order; if not, both ends
// were reset. It runs on a loop's goroutine and must not block.
//
// Urgent data stays in its place in the stream if the sockets have
// SO_OOBINLINE, and is lost otherwise. An idle connection costs the two
// descriptors, and no buffer.
func (m *Mover) Join(a, b int, count Counters, done func(inOrder bool)) error {
	l := m.loop()
	j := newJoint(a, b, count, done)
	if err := l.add(j); err != nil {
		j.reset()
		return fmt.Errorf("join: %w", err)
	}
	if count.Owner != nil {
		count.Owner.SetKiller(j)
	}
	return nil
}

// loop returns the loop whose turn it is to get a connection.
func (m *Mover) loop() *loop { return m.loops[m.next.Add(1)%uint32(len(m.loops))] }

// errEnded says that the Mover's Run has ended.
var errEnded = fmt.Errorf("mover: %w", os.ErrClosed)
