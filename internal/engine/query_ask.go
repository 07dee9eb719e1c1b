package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoEngine says that the engine is dead, and another one is being started.
var ErrNoEngine = errors.New("the engine is being started again")

// ErrSilent says that the engine lives and does not answer.
var ErrSilent = errors.New("the engine does not answer")

// answerGrace is how long the next part of an answer may take.
const answerGrace = 5 * time.Second

// maxPages is how many parts an answer may have: more than a full table of flows
// needs.
const maxPages = 512

// queries are those that wait for answers. The zero value has none.
type queries struct {
	mu sync.Mutex
	// +checklocks:mu
	last uint64 // id
	// +checklocks:mu
	waiting map[uint64]chan<- *answer
}

// add returns the id of a new query, and where its answers come.
func (q *queries) add() (id uint64, answers <-chan *answer) {
	c := make(chan *answer, maxPages)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting == nil {
		q.waiting = make(map[uint64]chan<- *answer)
	}
	q.last++
	q.waiting[q.last] = c
	return q.last, c
}

func (q *queries) remove(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, id)
}

// deliver gives an answer to whoever waits for it. One that nobody has asked for
// and what is too much is dropped.
func (q *queries) deliver(a *answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case q.waiting[a.ID] <- a: // never for one that is not there
	default:
	}
}

// ask puts a query to the engine and calls part for each part of the answer, as
// often as maxPages at most.
func (s *supervisor) ask(ctx context.Context, q query, part func(*answer)) error {
	return s.askBy(ctx, (*wire).try, q, part)
}

// askBy is ask with a way to send.
func (s *supervisor) askBy(ctx context.Context, send func(*wire, message) error, q query, part func(*answer)) error {
	engine := s.ready()
	if engine == nil {
		return ErrNoEngine
	}
	var answers <-chan *answer
	q.ID, answers = s.queries.add()
	defer s.queries.remove(q.ID)
	switch err := send(engine.wire, message{Query: &q}); {
	case errors.Is(err, unix.EAGAIN):
		return ErrSilent
	case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return ErrNoEngine
	case err != nil:
		return fmt.Errorf("ask the engine: %w", err)
	}
	timeout := time.NewTimer(answerGrace)
	defer timeout.Stop()
	for range maxPages {
		select {
		case a := <-answers:
			if err := a.check(); err != nil {
				return err
			}
			if a.Busy {
				return ErrSilent
			}
			part(a)
			if !a.More {
				return nil
			}
			timeout.Reset(answerGrace)
		case <-timeout.C:
			return ErrSilent
		case <-engine.exited:
			return ErrNoEngine
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("%w: more than %d parts", errAnswer, maxPages)
}

// ready returns the engine that runs, or nil if there is none that is ready.
func (s *supervisor) ready() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != EngineRunning {
		return nil
	}
	return s.engine
}
