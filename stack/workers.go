package stack

import "sync"

// maxIdle is how many goroutines may wait for a request: as many as answer the
// connections of a busy guest at the same time. The stack of each is 16 KiB at
// most, and less when it waits for long.
const maxIdle = 32

// workers handle requests. gVisor makes a goroutine for each, whose stack has to
// grow three times before its request is answered, which was 8 % of the processor
// time of a connection. One that has answered waits for the next request instead,
// and gVisor's new one only hands it over.
type workers struct {
	handle func(*Request)
	next   chan *Request // without a buffer: it takes what a worker waits for
	over   chan struct{} // closed at the end
	leave  sync.WaitGroup

	mu sync.Mutex
	// +checklocks:mu
	idle int // or -1 when it is over
}

func newWorkers(handle func(*Request)) *workers {
	return &workers{handle: handle, next: make(chan *Request), over: make(chan struct{})}
}

// serve handles a request, at last, and further ones.
func (w *workers) serve(r *Request) {
	select {
	case w.next <- r:
		return
	default:
	}
	for r != nil {
		w.handle(r)
		r = w.wait()
	}
}

// wait returns the next request, or nil for who is not needed.
func (w *workers) wait() *Request {
	if !w.rest() {
		return nil
	}
	defer w.work()
	select {
	case r := <-w.next:
		return r
	case <-w.over:
		return nil
	}
}

// rest makes the caller idle, if there is room.
func (w *workers) rest() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle < 0 || w.idle == maxIdle {
		return false
	}
	w.idle++
	w.leave.Add(1)
	return true
}

// work ends what rest began.
func (w *workers) work() {
	defer w.leave.Done()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle > 0 {
		w.idle--
	}
}

// close ends those that are idle, and returns when they have left.
func (w *workers) close() {
	w.mu.Lock()
	w.idle = -1
	w.mu.Unlock()
	close(w.over)
	w.leave.Wait()
}
