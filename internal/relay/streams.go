package relay

import (
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// firstStream is the event of the first pair; the next ones count down. Those of
// joints are positive, and two are the loop's own.
const firstStream = clock - 1

// streams serves the connections of a loop that have a Stream, in a goroutine of
// its own: what a Stream tells does not come by epoll, and a Stream may make its
// user wait for the device.
type streams struct {
	epoll   int           // the loop's, which tells of the host's sockets
	wake    chan struct{} // there is something to do, or it is the end
	scratch [small]byte   // for what comes in small pieces

	mu sync.Mutex
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	slots []pairSlot
	// +checklocks:mu
	free []int32 // slots without a pair
	// Pairs with news, first come, first served.
	// +checklocks:mu
	first *pair
	// +checklocks:mu
	last *pair
}

// A pairSlot is a place for a pair. Its age tells events of one pair from those
// of the next.
type pairSlot struct {
	pair *pair
	age  int32
}

func newStreams(epoll int) *streams {
	return &streams{epoll: epoll, wake: make(chan struct{}, 1)}
}

// add makes the loop tell of p's host socket.
func (s *streams) add(p *pair) error {
	epoll := s.epoll
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errEnded
	}
	if n := len(s.free); n > 0 {
		p.slot = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		p.slot = int32(len(s.slots))
		s.slots = append(s.slots, pairSlot{})
	}
	at := &s.slots[p.slot]
	at.pair = p
	at.age++
	err := control(epoll, unix.EPOLL_CTL_ADD, p, at.age, events)
	if err != nil {
		s.removeLocked(p)
	}
	return err
}

// arm makes the loop hear of room to write.
func (s *streams) arm(p *pair) error {
	s.mu.Lock()
	age := s.slots[p.slot].age
	s.mu.Unlock()
	return control(s.epoll, unix.EPOLL_CTL_MOD, p, age, events|unix.EPOLLOUT)
}

// control is epoll_ctl(2) for the socket of a pair.
func control(epoll, op int, p *pair, age int32, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: firstStream - p.slot, Pad: age}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epoll, op, p.host, &event))
}

// remove forgets a pair, whose socket is still open.
func (s *streams) remove(p *pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(p)
	if s.closed {
		s.signal() // it may be the last
	}
}

// +checklocks:s.mu
func (s *streams) removeLocked(p *pair) {
	s.slots[p.slot].pair = nil
	s.free = append(s.free, p.slot)
}

// event takes an event of the loop's.
func (s *streams) event(e *unix.EpollEvent) {
	s.mu.Lock()
	var p *pair
	if i := int(firstStream - e.Fd); i < len(s.slots) && s.slots[i].age == e.Pad {
		p = s.slots[i].pair
	}
	s.mu.Unlock()
	if p != nil {
		p.tell(hostNews(e.Events))
	}
}

// enqueue has p served. It must not be in the queue.
func (s *streams) enqueue(p *pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.next = nil
	if s.first == nil {
		s.first = p
		s.signal()
	} else {
		s.last.next = p
	}
	s.last = p
}

func (s *streams) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is signalled already
	}
}

// dequeue waits for a pair with news. It returns nil after stop, when all are
// gone.
func (s *streams) dequeue() *pair {
	for {
		s.mu.Lock()
		p, over := s.first, s.closed && len(s.free) == len(s.slots)
		if p != nil {
			s.first, p.next = p.next, nil
		}
		s.mu.Unlock()
		if p != nil || over {
			return p
		}
		<-s.wake
	}
}

// run serves pairs until stop has reset all.
func (s *streams) run() {
	for left := turn; ; {
		p := s.dequeue()
		if p == nil {
			return
		}
		if left -= p.serve(); left <= 0 {
			left = turn
			runtime.Gosched()
		}
	}
}

// stop makes run reset all connections and return.
func (s *streams) stop() {
	s.mu.Lock()
	s.closed = true
	var live []*pair
	for _, at := range s.slots {
		if at.pair != nil {
			live = append(live, at.pair)
		}
	}
	s.mu.Unlock()
	for _, p := range live {
		p.tell(ended)
	}
	s.signal() // there may be none
}
