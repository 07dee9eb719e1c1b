package api

import (
	"errors"
	"net/http"
	"os"
	"sync/atomic"
)

// A progress is how far a connection's client has come with a request. But for
// timedOut it belongs to the goroutine that serves the connection.
type progress struct {
	state    http.ConnState
	handled  bool        // the request that has begun was one
	timedOut atomic.Bool // the last read
}

// note keeps what became of a read.
func (p *progress) note(err error) { p.timedOut.Store(errors.Is(err, os.ErrDeadlineExceeded)) }

// change takes the state that package http tells. At the end it tells whether the
// client has left a request behind that was none: its header was too slow, too long or
// malformed, of which package http tells nobody.
func (p *progress) change(to http.ConnState) (unserved bool) {
	from := p.state
	p.state = to
	switch to {
	case http.StateClosed:
		return from == http.StateActive && !p.handled || from == http.StateNew && p.timedOut.Load()
	case http.StateIdle:
		p.handled = false
	}
	return false
}

// handled notes of which requests the header has come.
func handled(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.progress.handled = true
		}
		h.ServeHTTP(w, r)
	})
}
