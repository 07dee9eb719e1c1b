package stack

import (
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// abortPause is how long abort waits before it looks again.
const abortPause = time.Millisecond

// Accept completes the guest's handshake and returns its end of the
// connection. It blocks until the guest has answered, or Run has ended.
func (r *Request) Accept() (*Conn, error) {
	defer r.complete(false)
	if !r.stack.beginAccept() {
		return nil, syscall.ECONNABORTED
	}
	defer r.stack.accepting.Done()
	c := &Conn{}
	var err tcpip.Error
	if c.ep, err = r.req.CreateEndpoint(&c.queue); err != nil {
		return nil, toError(err)
	}
	r.stack.memory.add(c)
	return c, nil
}

// beginAccept counts a call of Accept, unless it is too late for one.
func (s *Stack) beginAccept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.accepting.Add(1)
	}
	return !s.ended
}

// abort ends all endpoints of a stack that is closed. A handshake that began after
// that would wait for ever, so it goes on until there is none.
func (s *Stack) abort() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	accepted := make(chan struct{})
	go func() {
		s.accepting.Wait()
		close(accepted)
	}()
	for {
		for _, ep := range append(s.stack.RegisteredEndpoints(), s.stack.CleanupEndpoints()...) {
			ep.Abort()
		}
		select {
		case <-accepted:
			return
		case <-time.After(abortPause):
		}
	}
}
