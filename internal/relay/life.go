package relay

import (
	"os"
	"sync"
	"time"
)

// A life is how far the two directions of a relay have come.
type life struct {
	sockets []*os.File    // whose waits end with the relay
	done    chan struct{} // closed when over

	mu sync.Mutex
	// +checklocks:mu
	ended int // directions that have ended in order
	// +checklocks:mu
	over bool
	// +checklocks:mu
	aborted bool // over before both had ended
}

// begin comes before the directions.
func (l *life) begin(sockets ...*os.File) {
	l.sockets, l.done = sockets, make(chan struct{})
}

// abort ends both directions at once.
func (l *life) abort() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.over, l.aborted = true, true
		l.finish()
	}
}

// end ends one direction in order.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended++
	if l.ended == 2 && !l.over {
		l.over = true
		l.finish()
	}
}

// inOrder tells whether both directions have ended in order.
func (l *life) inOrder() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.aborted
}

// finish wakes both directions.
func (l *life) finish() {
	close(l.done)
	for _, f := range l.sockets {
		_ = f.SetDeadline(time.Unix(1, 0)) // ends waits for it
	}
}

// wait waits for ready. It returns false when the relay is over.
func (l *life) wait(ready <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	case <-l.done:
		return false
	}
}
