package relay

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// A Passed is a connection between two sockets that one Mover has given up and
// another goes on with, in another process perhaps. It belongs to whoever has it, who
// gives it to JoinPassed or resets it.
type Passed struct {
	// Ends are the two sockets, as Join got them.
	Ends [2]int

	// Held are how many bytes were read from each end and not yet written to the
	// other. Where there are any, Pipes has the end to be read of a pipe with them.
	Held  [2]int
	Pipes [2]int

	// Finished says that the FIN of an end was passed on to the other.
	Finished [2]bool

	// Owner is Counters.Owner of who joined them.
	Owner Owner
}

// Descriptors returns what there is to be passed on: the ends, and the pipes that
// there are, in the order of Held.
func (p *Passed) Descriptors() []int {
	fds := p.Ends[:]
	for i, n := range p.Held {
		if n > 0 {
			fds = append(fds, p.Pipes[i])
		}
	}
	return fds
}

// Reset closes both ends with RST, and what holds bytes.
func (p *Passed) Reset() {
	for _, fd := range p.Ends {
		linger(fd)
	}
	for _, fd := range p.Descriptors() {
		closeFD(fd)
	}
}

// Keep has Run not reset the connections between two sockets when it ends, but leave
// them to Kept. Their done functions are not called then.
func (m *Mover) Keep() { m.keeps.Store(true) }

// Kept returns, once, the connections that Run has kept, in no order. It is called
// after Run. Those are not among them of which one end was dead, or for whose bytes the
// kernel gave no pipe: they are reset.
func (m *Mover) Kept() []Passed {
	var all []Passed
	for _, l := range m.loops {
		all = append(all, l.kept...)
		l.kept = nil
	}
	return all
}

// JoinPassed is Join for a connection that another Mover had. It may be called before
// Run. An error leaves p to the caller.
func (m *Mover) JoinPassed(p *Passed, count Counters, done func(inOrder bool)) error {
	for i, n := range p.Held {
		if n < 0 || n > pipeSize || n > 0 && p.Finished[i] {
			return fmt.Errorf("join: end %d: %d bytes before its end", i, n)
		}
	}
	if p.Finished[0] && p.Finished[1] {
		return errors.New("join: both ends are finished")
	}
	j := newJoint(p.Ends[0], p.Ends[1], count, done)
	for i, n := range p.Held {
		w := &j.ways[i]
		w.finished = p.Finished[i]
		if n > 0 { // the loop tells at once if there is room
			w.pipe, w.held = pipe{r: int32(p.Pipes[i]), w: none}, int32(n)
			w.bulk, w.stalled, w.sink().armed = true, true, true
		}
	}
	if err := m.loop().add(j); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if count.Owner != nil {
		count.Owner.SetKiller(j)
	}
	return nil
}

// leave resets the joints that are left when the loop ends, or keeps them. Nobody adds
// any more.
func (l *loop) leave() {
	l.bury()
	l.mu.Lock()
	slots := l.slots
	l.mu.Unlock()
	for _, s := range slots {
		j := s.joint
		switch {
		case j == nil:
		case !l.keeps.Load() || j.dead != nil || !l.keep(j):
			l.end(j, false)
		}
	}
}

// keep gives a joint up. It returns false if the kernel gives no pipe for what it holds.
func (l *loop) keep(j *joint) bool {
	for i := range j.ways {
		if !l.pour(&j.ways[i]) {
			return false
		}
	}
	p := Passed{Owner: j.owner}
	for i := range j.ways {
		w := &j.ways[i]
		l.hasten(w)
		p.Ends[i], p.Finished[i] = int(j.ends[i].fd), w.finished
		if p.Held[i] = int(w.held); w.held > 0 {
			p.Pipes[i] = int(w.pipe.r)
			w.pipe.closeWrite()
		}
	}
	j.over = true
	l.remove(j)
	l.kept = append(l.kept, p)
	return true
}

// pour moves what a way holds in its buffer to a pipe.
func (l *loop) pour(w *way) bool {
	if w.buffer == nil {
		return true
	}
	p, ok := newPipeOf(small)
	if !ok {
		return false
	}
	held := w.buffer[w.at : w.at+w.held]
	if n, err := unix.Write(int(p.w), held); err != nil || n < len(held) {
		p.close()
		return false
	}
	l.pipes.made++
	l.buffers.give(w.buffer)
	w.buffer, w.at, w.pipe = nil, 0, p
	return true
}

// newPipeOf asks the kernel for a pipe that holds n bytes at least, and not many more.
func newPipeOf(n int) (pipe, bool) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return pipe{}, false
	}
	p := pipe{int32(fds[0]), int32(fds[1])}
	if size, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, n); err != nil || size < n {
		p.close()
		return pipe{}, false
	}
	return p, true
}
