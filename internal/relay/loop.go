package relay

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batch is how many events are fetched at once.
	batch = 128

	// quantum is how long a loop works before the runtime's poller is asked
	// for what others wait for. On one processor nobody else asks it, but for
	// every 10 ms.
	quantum = 200 * time.Microsecond

	// bell is the event of the loop's own counter, see loop.ring.
	bell = -1

	// clock is the event of the loop's timer, see loop.tick.
	clock = -2
)

// events is what is asked for each socket, edge-triggered.
const events = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET

// A loop serves some connections of a Mover in one goroutine. It waits with an
// epoll descriptor, which the runtime's poller watches in turn.
type loop struct {
	file    *os.File // epoll
	raw     syscall.RawConn
	fd      int // of file
	bell    int // eventfd(2)
	clock   int // timerfd_create(2)
	events  [batch]unix.EpollEvent
	buffers buffers
	pipes   pipes
	streams *streams
	err     error // of epoll

	// Ways that move much or have more to move, first come, first served.
	first *way
	last  *way
	hurry int // turns until a way may move much at once

	gathering []*way

	vigil vigil

	keeps *atomic.Bool // Mover.keeps
	kept  []Passed     // valid when run has returned

	mu sync.Mutex
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	slots []slot
	// +checklocks:mu
	free []uint32 // slots without a joint
	// +checklocks:mu
	killed []*joint // to be ended
}

// A slot is a place for a joint. Its age tells events of one joint from those
// of the next.
type slot struct {
	joint *joint
	age   int32
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile gives to the runtime's poller only what is non-blocking.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	l := &loop{fd: fd, bell: -1, clock: -1, file: os.NewFile(uintptr(fd), "epoll"), streams: newStreams(fd)}
	if l.raw, err = l.file.SyscallConn(); err == nil {
		err = l.addOwn()
	}
	if err != nil {
		l.discard()
		return nil, err
	}
	return l, nil
}

// addOwn makes the loop's own events. Their counters are never read: each write
// and each start of the clock is an event.
func (l *loop) addOwn() (err error) {
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if l.clock, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	for _, own := range []struct {
		fd    int
		event int32
	}{{l.bell, bell}, {l.clock, clock}} {
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: own.event}
		if err := unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, own.fd, &event); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
	}
	return nil
}

// ring gives the loop an event, and so a reason to come back after the
// runtime's poller was asked.
func (l *loop) ring() {
	one := [8]byte{1}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(l.bell), uintptr(unsafe.Pointer(&one)), uintptr(len(one)))
}

// add begins to serve a joint. An error leaves its sockets open.
func (l *loop) add(j *joint) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errEnded
	}
	if n := len(l.free); n > 0 {
		j.slot = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		j.slot = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	j.loop = l
	l.vigil.stir()
	s := &l.slots[j.slot]
	s.age++
	s.joint = j
	// The lock keeps the loop from closing the one before the other is known.
	err := l.control(unix.EPOLL_CTL_ADD, j, 0, s.age, j.ends[0].events())
	if err == nil {
		if err = l.control(unix.EPOLL_CTL_ADD, j, 1, s.age, j.ends[1].events()); err != nil {
			_ = unix.EpollCtl(l.fd, unix.EPOLL_CTL_DEL, int(j.ends[0].fd), nil)
		}
	}
	if err != nil {
		l.removeLocked(j)
	}
	return err
}

func (l *loop) control(op int, j *joint, side uint8, age int32, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(j.slot<<1) | int32(side), Pad: age}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.fd, op, int(j.ends[side].fd), &event))
}

// arm makes the loop hear of room to write.
func (l *loop) arm(j *joint, side uint8) error {
	e := &j.ends[side]
	if e.armed {
		return nil
	}
	e.armed = true
	l.mu.Lock()
	age := l.slots[j.slot].age
	l.mu.Unlock()
	return l.control(unix.EPOLL_CTL_MOD, j, side, age, e.events())
}

// remove gives up a joint's slot. It returns false if no joint is left.
func (l *loop) remove(j *joint) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(j)
	return len(l.free) < len(l.slots)
}

// +checklocks:l.mu
func (l *loop) removeLocked(j *joint) {
	l.slots[j.slot].joint = nil
	l.free = append(l.free, j.slot)
}

// find returns the joint of an event, or nil if it is over.
func (l *loop) find(e *unix.EpollEvent) *joint {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := int(e.Fd >> 1); i >= 0 && i < len(l.slots) && l.slots[i].age == e.Pad {
		return l.slots[i].joint
	}
	return nil
}

// stop makes run return.
func (l *loop) stop() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true // from now on nobody adds
		l.vigil.stir()
		l.ring() // it may keep vigil; later the counter may be gone
	}
	l.mu.Unlock()
	l.file.Close() // waits for serve, which takes the lock; a second time does no harm
}

// discard releases a loop that does not run any more, or never did.
func (l *loop) discard() {
	l.stop()
	l.pipes.close()
	unix.Close(l.bell)
	unix.Close(l.clock)
}

// run serves connections until stop, then resets them.
func (l *loop) run() error {
	// All the work is done inside the callback: the runtime forgets that the
	// descriptor was ready when Read begins, not when the callback returns.
	_ = l.raw.Read(l.serve) // fails only after stop
	l.vigil.keep(false)
	l.stop()
	l.leave()
	l.discard()
	return l.err
}

// serve does what there is to do, and waits while it keeps vigil. It returns false
// when it is time to wait elsewhere.
func (l *loop) serve(uintptr) bool {
	began := time.Now()
	for {
		n, errno := l.look()
		if errno != 0 {
			l.err = os.NewSyscallError("epoll_pwait", errno)
			return true
		}
		for i := range l.events[:n] {
			l.event(&l.events[i])
		}
		if w := l.dequeue(); w != nil {
			l.hurry = max(0, l.hurry-1)
			l.turn(w)
		}
		if l.first == nil && n < batch {
			if !l.vigil.watch(n) {
				return false // whatever comes from now on wakes us
			}
			began = time.Now()
			continue
		}
		if time.Since(began) > quantum {
			l.ring()
			return false
		}
	}
}

// look fetches events, without waiting unless it keeps vigil and it is nobody's
// turn. It is epoll_pwait because not every architecture has epoll_wait.
func (l *loop) look() (int, syscall.Errno) {
	for l.vigil.keeps && l.first == nil {
		if n, errno := l.vigil.wait(l.fd, l.events[:]); errno != unix.EINTR {
			return n, errno
		}
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.fd), uintptr(unsafe.Pointer(&l.events[0])), batch, 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// event serves one event.
func (l *loop) event(e *unix.EpollEvent) {
	switch {
	case e.Fd <= firstStream:
		l.vigil.stir()
		l.streams.event(e)
	case e.Fd == clock:
		l.tick()
	case e.Fd == bell:
		l.bury()
	default:
		if j := l.find(e); j != nil {
			l.handle(j, int(e.Fd&1), e.Events)
		}
	}
}

// handle serves one event of one end.
func (l *loop) handle(j *joint, side int, events uint32) {
	in, out := &j.ways[side], &j.ways[1-side]
	if events&(unix.EPOLLRDHUP|unix.EPOLLPRI) != 0 {
		j.ends[side].exact = true
	}
	if events&unix.EPOLLERR != 0 {
		l.fail(j, side)
		return
	}
	if events&^unix.EPOLLOUT != 0 {
		in.readable = true
		l.begin(in)
	}
	if events&unix.EPOLLOUT != 0 && out.stalled {
		out.stalled = false
		l.begin(out)
	}
}

// begin lets a way move, at once if it moves little at a time, else when it is
// its turn: what is small never waits for more than one turn of what is large.
func (l *loop) begin(w *way) {
	switch {
	case w.queued:
	case w.bulk:
		l.vigil.stir()
		l.enqueue(w)
	default:
		l.hurry = patience
		l.turn(w)
	}
}

// stint is how much a way may move before others have their turn, in bytes.
func (l *loop) stint() int {
	if l.hurry > 0 {
		return bite
	}
	return pipeSize
}

// fail begins the end of a joint one end of which is dead.
func (l *loop) fail(j *joint, side int) {
	j.dead = &j.ways[side]
	j.dead.readable = true
	l.turn(j.dead)
}

// turn lets a way move, unless it is waiting for its turn, and draws the
// consequences.
func (l *loop) turn(w *way) {
	j := w.joint
	if j.over || w.queued || j.dead != nil && j.dead != w {
		return
	}
	err := l.move(w)
	_, sink := err.(*sinkError)
	switch {
	case err == errTurn:
		l.enqueue(w)
	case sink && j.dead == nil:
		l.fail(j, int(1-w.side))
	case err != nil || j.dead != nil:
		l.end(j, false)
	case j.ways[0].finished && j.ways[1].finished:
		l.end(j, true)
	}
}

// end closes a joint.
func (l *loop) end(j *joint, inOrder bool) {
	if j.over {
		return
	}
	j.over = true
	for i := range j.ways {
		l.release(&j.ways[i])
		l.forget(&j.ways[i])
	}
	if !l.remove(j) {
		l.pipes.close() // an idle process shall not have its share of them
	}
	if inOrder {
		j.close()
	} else {
		j.reset()
	}
	j.done(inOrder)
}

// enqueue makes a way wait for its next turn.
func (l *loop) enqueue(w *way) {
	w.queued, w.next = true, nil
	if l.first == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
}

// dequeue returns the way whose turn it is, or nil.
func (l *loop) dequeue() *way {
	w := l.first
	if w != nil {
		l.first, w.next, w.queued = w.next, nil, false
	}
	return w
}
