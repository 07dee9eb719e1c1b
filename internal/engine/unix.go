package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
)

// A connectRequest asks for a connection to the Unix socket that a rule leads
// to. The engine names the rule and never a path: whatever it becomes, it gets
// nowhere else.
type connectRequest struct {
	ID   uint64 // of the request
	Rule int
}

// A connectReply comes with a connected socket, or says why there is none.
type connectReply struct {
	ID    uint64
	Errno syscall.Errno // 0: see Error
	Error string        // "" with a socket
}

// err returns why there is no socket.
func (r *connectReply) err() error {
	switch {
	case r.Errno != 0:
		return fmt.Errorf("%s (%w)", r.Error, r.Errno)
	case r.Error != "":
		return errors.New(r.Error)
	}
	return syscall.EMFILE // unix(7): it got lost, as our table of descriptors is full
}

// maxConnects is how many connections to Unix sockets are asked for at a time:
// what the supervisor has queued at most.
const maxConnects = 64

// unixSockets are the connections that the engine waits for.
type unixSockets struct {
	request func(connectRequest) error
	room    chan struct{} // holds what is under way

	mu sync.Mutex
	// +checklocks:mu
	last uint64
	// +checklocks:mu
	waiting map[uint64]chan<- unixAnswer
}

type unixAnswer struct {
	file *os.File
	err  error
}

// newUnixSockets returns an engine's side. Its ids begin anywhere, so that what
// another engine has asked for is not taken for an answer.
func newUnixSockets(request func(connectRequest) error) *unixSockets {
	u := &unixSockets{request: request, room: make(chan struct{}, maxConnects)}
	u.mu.Lock() // nobody else has u yet, but checklocks cannot know
	defer u.mu.Unlock()
	u.last, u.waiting = rand.Uint64(), make(map[uint64]chan<- unixAnswer)
	return u
}

// connect returns a socket that is connected to where a rule leads.
func (u *unixSockets) connect(ctx context.Context, rule int) (*os.File, error) {
	select {
	case u.room <- struct{}{}:
		defer func() { <-u.room }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answers := make(chan unixAnswer, 1)
	id := u.expect(answers)
	if err := u.request(connectRequest{ID: id, Rule: rule}); err != nil {
		u.forget(id)
		return nil, fmt.Errorf("ask for a Unix socket: %w", err)
	}
	select {
	case a := <-answers:
		return a.file, a.err
	case <-ctx.Done():
		if !u.forget(id) { // it has just come
			if a := <-answers; a.file != nil {
				a.file.Close()
			}
		}
		return nil, ctx.Err()
	}
}

func (u *unixSockets) expect(answers chan<- unixAnswer) (id uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last++
	u.waiting[u.last] = answers
	return u.last
}

// forget returns false if nobody waits for the answer any more.
func (u *unixSockets) forget(id uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.waiting[id]
	delete(u.waiting, id)
	return ok
}

// put takes over what the supervisor sent.
func (u *unixSockets) put(r *connectReply, files []*os.File) {
	u.mu.Lock()
	defer u.mu.Unlock()
	answers, ok := u.waiting[r.ID]
	delete(u.waiting, r.ID)
	switch {
	case !ok:
		closeAll(files)
	case len(files) == 1:
		answers <- unixAnswer{file: files[0]}
	default:
		closeAll(files)
		answers <- unixAnswer{err: r.err()}
	}
}

// connectors is how many Unix sockets are connected to at a time. One would be
// enough, as connecting does not wait; but a path in the guest may lead to a file
// system that does, which shall not stop everything else.
const connectors = 4

// serveConnects connects to Unix sockets for the engine until ctx ends. It does
// not wait for what is under way then: nobody can interrupt a lookup that a file
// system of the guest keeps waiting, and it ends with this process at the latest.
func (s *supervisor) serveConnects(ctx context.Context) {
	slots := make(chan struct{}, connectors)
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		select {
		case <-ctx.Done():
			return
		case r := <-s.connects:
			go func() {
				s.sendConnected(r)
				<-slots
			}()
		}
	}
}

// sendConnected answers a request.
func (s *supervisor) sendConnected(r connectRequest) {
	reply := connectReply{ID: r.ID}
	f, err := s.rules.ConnectUnix(r.Rule)
	var files []*os.File
	if err == nil {
		files = append(files, f)
		defer f.Close()
	} else {
		reply.Error = err.Error()
		errors.As(err, &reply.Errno)
	}
	err = s.current().wire.send(message{Connected: &reply}, files...)
	if err != nil && len(files) > 0 { // as in sendSockets
		reply.Error = err.Error()
		err = s.current().wire.send(message{Connected: &reply})
	}
	if err != nil {
		s.log.Debug("connection not sent", "error", err) // its client is reset, or gone with the engine
	}
}

// guestRoot opens the guest's root directory.
func (s *supervisor) guestRoot() (*os.File, error) {
	ns, err := s.world.namespace()
	if err != nil {
		return nil, err
	}
	return ns.Root()
}
