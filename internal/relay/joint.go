package relay

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A joint is one connection of a Mover: two sockets, and a way from each to the
// other. Only its loop's goroutine touches it once it was added.
type joint struct {
	ends [2]end
	ways [2]way // ways[i] leads from ends[i] to the other
	done func(inOrder bool)
	loop *loop

	owner Owner  // of Counters
	slot  uint32 // its place in the loop's table

	// dead is the way from an end that is dead. What that had sent still goes
	// to the other, as far as it takes it at once; then both are reset.
	dead *way
	over bool // both sockets are closed
}

// An end is one of the two sockets.
type end struct {
	fd int32

	// armed says that the loop is told when there is room to write, which is
	// asked for when a write finds none for the first time: most connections
	// never do, and it would be one more event for each.
	armed bool

	// exact says that a short read does not mean that nothing is left: a FIN
	// that came with the last bytes is not told a second time, and a read stops
	// before urgent data.
	exact bool
}

// events is what is asked for the socket.
func (e *end) events() uint32 {
	if e.armed {
		return events | unix.EPOLLOUT
	}
	return events
}

// A way is one direction of a joint.
type way struct {
	joint *joint
	count *atomic.Int64 // bytes that were written
	next  *way          // in the loop's queue

	// What was read and is not yet written is in buffer or in pipe.
	buffer *[small]byte
	pipe   pipe
	at     int32 // where it starts in buffer
	held   int32 // bytes

	run  int64 // bytes written since the other way moved any, or since it gathered
	mark int64 // what run was at the clock's last event
	idle uint8 // how many events of the clock found nothing in turn

	side     uint8 // number of the end it comes from
	readable bool  // reading may find something
	stalled  bool  // nothing can be written until the loop is told
	bulk     bool  // much comes at once: splice
	gathers  bool  // the source tells only of much, see gather.go; implies bulk
	finished bool  // the FIN was passed on
	queued   bool
}

func newJoint(a, b int, count Counters, done func(bool)) *joint {
	j := &joint{done: done, owner: count.Owner}
	j.ends[0].fd, j.ends[1].fd = int32(a), int32(b)
	linger(a)
	linger(b)
	j.ways[0] = way{joint: j, count: count.Outbound, side: 0}
	j.ways[1] = way{joint: j, count: count.Inbound, side: 1}
	return j
}

func (w *way) source() *end { return &w.joint.ends[w.side] }
func (w *way) sink() *end   { return &w.joint.ends[1-w.side] }

// close closes both sockets. What was sent still arrives.
func (j *joint) close() {
	for _, e := range j.ends {
		closeInOrder(int(e.fd))
	}
}

// reset closes both sockets with RST.
func (j *joint) reset() {
	for _, e := range j.ends {
		closeFD(int(e.fd))
	}
}
