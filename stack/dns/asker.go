package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"taproot/internal/socket"
)

const (
	// socketsPerServer is how many sockets take new questions for one server. Each
	// question takes any of them, so that one whose port somebody has found out
	// gets a part of the questions.
	socketsPerServer = 4

	// socketUses and socketAge bound how many questions a socket takes, and for
	// how long: ports change faster than they can be found (which takes a
	// thousand probes a second half a minute, see "SAD DNS", CCS 2020), and with
	// few questions each has its own. A socket for each costs 20 us of 45.
	socketUses = 64
	socketAge  = time.Second
)

// errClosed says that there is no answer any more.
var errClosed = errors.New("closed")

// errSilence says that a server did not answer in its time.
var errSilence = errors.New("no answer in time")

// An asker asks servers over UDP. Its sockets are connected, each to one server,
// from ports that the kernel picks at random.
type asker struct {
	dial       func(ctx context.Context, network, address string) (net.Conn, error)
	mismatched *atomic.Uint64
	poller     *socket.Poller
	lastID     atomic.Uint64
	outbox     *outbox // nil if questions go at once

	mu sync.Mutex
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	sockets map[uint64]*askerSocket // by what the poller calls them
	// +checklocks:mu
	fresh map[netip.AddrPort]*places
}

// places are the sockets that take questions for one server. Those that are nil
// are opened when a question meets them.
type places [socketsPerServer]*askerSocket

// An askerSocket is a socket of an asker. What can change is guarded by
// asker.mu.
type askerSocket struct {
	*socket.Socket
	id     uint64
	server netip.AddrPort
	worn   bool               // takes no more questions
	uses   int                // questions taken
	age    *time.Timer        // wears it out
	open   map[uint16]*lookup // questions without an answer, by ID
}

func newAsker(dial func(ctx context.Context, network, address string) (net.Conn, error), mismatched *atomic.Uint64) (*asker, error) {
	poller, err := socket.NewPoller()
	if err != nil {
		return nil, err
	}
	a := &asker{dial: dial, mismatched: mismatched, poller: poller}
	a.mu.Lock() // nobody else has a yet, but checklocks cannot know
	defer a.mu.Unlock()
	a.sockets = make(map[uint64]*askerSocket)
	a.fresh = make(map[netip.AddrPort]*places)
	return a, nil
}

// ask sends a question to a server. The lookup is then driven on by what becomes
// of it, unless ask returns an error.
func (a *asker) ask(l *lookup, s *server, patience time.Duration) error {
	u, _, err := a.open(l, s, patience, rand.IntN(socketsPerServer))
	if err != nil {
		return err
	}
	defer u.Release()
	return a.send(u, l, s, l.round.query)
}

// open opens a question on the socket at a place, which is made if there is none.
// It returns the socket with a reference, and the question's ID.
func (a *asker) open(l *lookup, s *server, patience time.Duration, place int) (u *askerSocket, id uint16, err error) {
	if u, id = a.enter(l, s, patience, place, nil); u != nil {
		return u, id, nil
	}
	fresh, err := a.connect(s.addr)
	if err != nil {
		return nil, 0, err
	}
	if u, id = a.enter(l, s, patience, place, fresh); u == nil {
		return nil, 0, errClosed
	}
	return u, id, nil
}

// send sends the question of a lookup, which is open on u. An error is the
// caller's to act on; there is none if somebody else goes on with the lookup.
func (a *asker) send(u *askerSocket, l *lookup, s *server, query []byte) error {
	mine := false
	err := u.SendMessage(nil, nil, query, &socket.Control{})
	switch err {
	case nil:
	case syscall.EMSGSIZE, syscall.EAGAIN, syscall.ENOBUFS, syscall.ENOMEM: // says nothing about other questions
		mine = a.withdraw(u, l)
	default:
		mine = a.fail(u, err, l)
	}
	if mine {
		return fmt.Errorf("ask %v: %w", s.addr, err)
	}
	return nil
}

// connect returns a new socket.
func (a *asker) connect(server netip.AddrPort) (*askerSocket, error) {
	conn, err := a.dial(context.Background(), "udp", server.String())
	if err != nil {
		return nil, err
	}
	c, ok := conn.(socket.Conn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("dial %v: %T has no descriptor", server, conn)
	}
	taken, err := socket.Take(c)
	if err != nil {
		return nil, err
	}
	u := &askerSocket{Socket: taken, id: a.lastID.Add(1), server: server, open: make(map[uint16]*lookup)}
	if err := a.poller.Add(u.FD(), u.id); err != nil {
		u.Release()
		return nil, err
	}
	return u, nil
}

// enter opens a question on the socket at a place, or on a fresh one that it
// puts there. It returns the socket with a reference, and the question's ID, or
// nil if there is none, or the asker is closed, which closes the fresh one.
func (a *asker) enter(l *lookup, s *server, patience time.Duration, place int, fresh *askerSocket) (*askerSocket, uint16) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if fresh != nil {
		if a.closed {
			fresh.Release()
			return nil, 0
		}
		a.placeLocked(fresh, place)
	}
	at := a.fresh[s.addr]
	if at == nil || at[place] == nil {
		return nil, 0
	}
	u := at[place]
	u.Acquire() // the tables have a reference
	if u.uses++; u.uses == socketUses {
		a.wearOutLocked(u)
	}
	id := u.newID()
	u.open[id] = l
	binary.BigEndian.PutUint16(l.round.query, id)
	l.asked = s
	l.timer = time.AfterFunc(patience, func() { a.expire(u, id, l) })
	return u, id
}

// placeLocked puts a fresh socket where questions find it, and the tables take
// over its reference.
//
// +checklocks:a.mu
func (a *asker) placeLocked(u *askerSocket, place int) {
	a.sockets[u.id] = u
	u.age = time.AfterFunc(socketAge, func() { a.wearOut(u) })
	at := a.fresh[u.server]
	if at == nil {
		at = new(places)
		a.fresh[u.server] = at
	}
	if before := at[place]; before != nil { // somebody was faster
		before.worn = true // its timer ends it
	}
	at[place] = u
}

// newID returns an ID that no open question has.
func (u *askerSocket) newID() uint16 {
	for {
		id := randomID()
		if u.open[id] == nil {
			return id
		}
	}
}

// forgetLocked takes an answered question off a socket. It returns true if the
// caller must release the socket, which is then gone.
//
// +checklocks:a.mu
func (a *asker) forgetLocked(u *askerSocket, id uint16) (gone bool) {
	if l := u.open[id]; l != nil {
		l.timer.Stop()
		delete(u.open, id)
	}
	return a.endLocked(u)
}

// endLocked takes a socket that is worn and has no open questions out of the
// tables, and returns whether it did.
//
// +checklocks:a.mu
func (a *asker) endLocked(u *askerSocket) bool {
	if !u.worn || len(u.open) > 0 || a.sockets[u.id] != u {
		return false
	}
	u.age.Stop()
	delete(a.sockets, u.id)
	return true
}

// wearOutLocked keeps questions away from a socket.
//
// +checklocks:a.mu
func (a *asker) wearOutLocked(u *askerSocket) {
	u.worn = true
	at := a.fresh[u.server]
	if at == nil {
		return
	}
	for i, other := range at {
		if other == u {
			at[i] = nil
		}
	}
	if *at == (places{}) {
		delete(a.fresh, u.server)
	}
}

// wearOut keeps questions away from a socket that is old.
func (a *asker) wearOut(u *askerSocket) {
	a.mu.Lock()
	a.wearOutLocked(u)
	gone := a.endLocked(u)
	a.mu.Unlock()
	if gone {
		u.Release()
	}
}

// expire ends a question whose time is over.
func (a *asker) expire(u *askerSocket, id uint16, l *lookup) {
	a.mu.Lock()
	if u.open[id] != l {
		a.mu.Unlock()
		return
	}
	gone := a.forgetLocked(u, id)
	a.mu.Unlock()
	if gone {
		u.Release()
	}
	l.lost(l.asked, errSilence)
}

// withdraw takes the question of a lookup off a socket that did not send it. It
// returns false if somebody else has done so, and goes on with the lookup.
func (a *asker) withdraw(u *askerSocket, l *lookup) (mine bool) {
	gone := false
	a.mu.Lock()
	for id, other := range u.open {
		if other == l {
			mine, gone = true, a.forgetLocked(u, id)
		}
	}
	a.mu.Unlock()
	if gone {
		u.Release()
	}
	return mine
}

// fail ends all questions of a socket whose server cannot be reached. The
// lookup own, which may be nil, is left to the caller if fail returns true.
func (a *asker) fail(u *askerSocket, err error, own *lookup) (mine bool) {
	a.mu.Lock()
	a.wearOutLocked(u)
	var lost []*lookup
	for _, l := range u.open {
		l.timer.Stop()
		if l == own {
			mine = true
			continue
		}
		lost = append(lost, l)
	}
	clear(u.open)
	gone := a.endLocked(u)
	a.mu.Unlock()
	if gone {
		u.Release()
	}
	for _, l := range lost {
		l.lost(l.asked, err)
	}
	return mine
}

// run hands on replies until ctx ends, and closes the sockets.
func (a *asker) run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() {
		b := socket.NewBatch()
		done <- a.poller.Serve(func(r socket.Readiness) bool { return a.serve(b, r) })
	}()
	select {
	case err := <-done:
		a.close()
		return err
	case <-ctx.Done():
		a.close()
		<-done // says only that the poller is closed
		return nil
	}
}

// serve takes one batch of replies from a socket, and tells if there may be more.
func (a *asker) serve(b *socket.Batch, r socket.Readiness) (more bool) {
	a.mu.Lock()
	u := a.sockets[r.ID]
	ok := u != nil && u.Acquire()
	a.mu.Unlock()
	if !ok {
		return false
	}
	defer u.Release()
	n, err := b.Receive(u.Socket)
	for i := range n {
		a.reply(u, b.Message(i).Payload)
	}
	if err != nil && err != syscall.EAGAIN {
		a.fail(u, fmt.Errorf("read from %v: %w", u.server, err), nil)
		return false
	}
	return n == socket.BatchLen || r.Failed && n > 0
}

// reply finds the question of a reply, which stays the caller's.
func (a *asker) reply(u *askerSocket, b []byte) {
	if len(b) < headerSize {
		a.mismatched.Add(1)
		return
	}
	a.mu.Lock()
	l := u.open[id(b)]
	if l == nil || !isReply(l.round.query, b) {
		a.mu.Unlock()
		a.mismatched.Add(1)
		return
	}
	gone := a.forgetLocked(u, id(b))
	a.mu.Unlock()
	if gone {
		u.Release()
	}
	l.replied(l.asked, b)
}

// close ends everything; open questions get no answer. It may be called once.
func (a *asker) close() {
	a.mu.Lock()
	a.closed = true
	sockets := make([]*askerSocket, 0, len(a.sockets))
	for _, u := range a.sockets {
		u.age.Stop()
		for _, l := range u.open {
			l.timer.Stop()
		}
		clear(u.open)
		sockets = append(sockets, u)
	}
	clear(a.sockets)
	clear(a.fresh)
	a.mu.Unlock()
	for _, u := range sockets {
		u.Release()
	}
	a.poller.Close() // nothing is written through it, so nothing can be lost
}
