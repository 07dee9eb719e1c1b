package relay

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// What a pair is told.
const (
	busy      = 1 << iota // it is in the queue or being served
	guestNews             // the stream may answer otherwise than before
	readNews              // the host's socket has something, or its FIN
	exactNews             // and a short read does not mean that nothing is left
	writeNews             // the host's socket has room
	deadNews              // the host's socket has an error
	ended                 // from outside
)

// hostNews says what events of a host's socket mean.
func hostNews(events uint32) (news uint32) {
	if events&^unix.EPOLLOUT != 0 {
		news |= readNews
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLPRI) != 0 {
		news |= exactNews
	}
	if events&unix.EPOLLOUT != 0 {
		news |= writeNews
	}
	if events&unix.EPOLLERR != 0 {
		news |= deadNews
	}
	return news
}

// A pair is one connection between a Stream and a host's socket.
type pair struct {
	guest   Stream
	host    int
	count   Counters
	done    func(inOrder bool)
	streams *streams
	slot    int32

	// news is what was told and not yet heard. Who sets busy puts the pair in
	// the queue; what follows belongs to the goroutine of streams.
	news atomic.Uint32

	next     *pair // in the queue
	outbound outbound
	inbound  inbound
	dead     bool // the host's socket has an error
}

// tell makes a pair be served.
func (p *pair) tell(news uint32) {
	if p.news.Or(news|busy)&busy == 0 {
		p.streams.enqueue(p)
	}
}

// errEarly says that the connection ended before both of its halves.
var errEarly = errors.New("ended early")

// serve moves both ways and returns the number of bytes that were moved.
func (p *pair) serve() int {
	news := p.news.Swap(busy)
	if news&ended != 0 {
		p.end(false)
		return 0
	}
	p.hear(news)
	before := p.moved()
	again, err := p.move()
	n := int(p.moved() - before)
	switch {
	case err != nil || p.dead && !again:
		p.end(false)
	case p.outbound.ended && p.inbound.ended:
		p.end(true)
	case again || !p.news.CompareAndSwap(busy, 0):
		p.streams.enqueue(p)
	}
	return n
}

func (p *pair) moved() int64 { return p.count.Outbound.Load() + p.count.Inbound.Load() }

// hear draws the consequences of news.
func (p *pair) hear(news uint32) {
	if news&guestNews != 0 {
		p.outbound.ready, p.inbound.stalled = true, false
	}
	if news&writeNews != 0 {
		p.outbound.stalled = false
	}
	if news&readNews != 0 {
		p.inbound.ready = true
	}
	if news&exactNews != 0 {
		p.inbound.exact = true
	}
	if news&deadNews != 0 {
		p.die()
	}
}

// die notes that the host's socket is dead. What it had sent is still to be read.
func (p *pair) die() { p.dead, p.inbound.ready, p.inbound.exact = true, true, true }

// move moves both ways. again says that a turn was over. What a dead host had
// sent still goes to the guest, as far as it takes it at once.
func (p *pair) move() (again bool, err error) {
	if o := &p.outbound; (o.ended || o.stalled) && p.guest.Err() != nil {
		return false, errEarly // else ReadTo tells
	}
	for _, way := range [...]func() error{p.sendAll, p.receiveAll} {
		switch err := way(); err {
		case nil:
		case errTurn:
			again = true
		default:
			return false, err
		}
	}
	return again, nil
}

// end closes both ends. The pair stays busy: nobody serves it again.
func (p *pair) end(inOrder bool) {
	p.streams.remove(p)
	if inOrder {
		p.guest.Close()
		closeInOrder(p.host)
	} else {
		closeFD(p.host)
		p.guest.Abort()
	}
	p.done(inOrder)
}

// errTurn says that it is somebody else's turn.
var errTurn = errors.New("turn is over")

// turn is how much one direction moves before the others have their turn, in
// bytes: a fraction of a millisecond's work.
const turn = 512 << 10
