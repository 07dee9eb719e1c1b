package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// guestSockets are sockets inside the guest that wait to be used. The
// supervisor has them made; the engine cannot.
type guestSockets struct {
	request func(socketRequest) error

	mu sync.Mutex
	// +checklocks:mu
	kinds map[socketRequest]*socketKind
}

// A socketKind are the sockets of one kind.
type socketKind struct {
	free    []*os.File
	asked   bool          // the supervisor knows
	changed chan struct{} // closed, and made anew, by each reply
	err     error         // of the last reply
}

func newGuestSockets(request func(socketRequest) error) *guestSockets {
	return &guestSockets{request: request, kinds: make(map[socketRequest]*socketKind)}
}

// get returns an unconnected socket inside the guest, or waits for one. family
// and typ are those of socket(2).
func (g *guestSockets) get(ctx context.Context, family, typ int) (*os.File, error) {
	r := socketRequest{Family: family, Type: typ}
	for {
		if g.few(r) {
			if err := g.request(r); err != nil {
				err = fmt.Errorf("ask for a socket inside the guest: %w", err)
				g.put(&socketReply{Request: r, Error: err.Error()}, nil)
			}
		}
		f, changed, err := g.take(r)
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// few tells whether the caller is to ask for more sockets: few are left, and
// nobody else has asked.
func (g *guestSockets) few(r socketRequest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.kinds[r]
	if k == nil {
		k = &socketKind{changed: make(chan struct{})}
		g.kinds[r] = k
	}
	if k.asked || k.err != nil || len(k.free) >= socketBatch/4 {
		return false
	}
	k.asked = true
	return true
}

// take takes a socket if there is one. Otherwise the channel is closed when
// there may be.
func (g *guestSockets) take(r socketRequest) (*os.File, <-chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.kinds[r]
	if n := len(k.free); n > 0 {
		f := k.free[n-1]
		k.free = k.free[:n-1]
		return f, nil, nil
	}
	if err := k.err; err != nil {
		k.err = nil // the next one asks again
		return nil, nil, err
	}
	return nil, k.changed, nil
}

// put takes over what the supervisor sent.
func (g *guestSockets) put(reply *socketReply, files []*os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.kinds[reply.Request]
	if k == nil { // not asked for
		closeAll(files)
		return
	}
	k.asked = false
	k.free = append(k.free, files...)
	switch {
	case reply.Error != "":
		k.err = errors.New(reply.Error)
	case len(files) == 0: // unix(7): our table of descriptors is full
		k.err = syscall.EMFILE
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

// close closes the sockets that nobody has used.
func (g *guestSockets) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.kinds {
		closeAll(k.free)
		k.free = nil
	}
}
