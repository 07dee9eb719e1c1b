package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"taproot/internal/socket"
)

// An outbox holds questions for one socket until they go to its server in one
// call. It belongs to one goroutine, that of Forwarder.Datagram and
// Forwarder.Flush. Each question holds a reference to the socket.
type outbox struct {
	socket.Outbox
	place   int // of the socket; all questions of one call have one
	socket  *askerSocket
	lookups [socket.OutboxLen]*lookup
	servers [socket.OutboxLen]*server
	query   []byte // the one that is about to be held
}

// hold is ask, but the question goes with the next flush at the latest.
func (a *asker) hold(l *lookup, s *server, patience time.Duration) error {
	o := a.outbox
	if o == nil || len(l.round.query) > socket.OutboxMax {
		return a.ask(l, s, patience)
	}
	if o.Len() == 0 {
		o.place = rand.IntN(socketsPerServer)
	}
	// As soon as the question is open, somebody else may ask it elsewhere.
	o.query = append(o.query[:0], l.round.query...)
	u, id, err := a.open(l, s, patience, o.place)
	if err != nil {
		return err
	}
	if o.socket != u || !o.Takes(len(o.query)) {
		a.flush()
	}
	binary.BigEndian.PutUint16(o.query, id)
	i := o.Len()
	o.socket, o.lookups[i], o.servers[i] = u, l, s
	o.Add(nil, o.query, socket.Control{})
	return nil
}

// flush sends the questions that are held back.
func (a *asker) flush() {
	o := a.outbox
	if o == nil || o.Len() == 0 {
		return
	}
	u, n := o.socket, o.Len()
	o.Send(u.Socket, func(i int, taken bool) {
		if taken {
			return
		}
		if err := a.send(u, o.lookups[i], o.servers[i], o.Payload(i)); err != nil {
			o.lookups[i].lost(o.servers[i], err)
		}
	})
	o.socket = nil
	clear(o.lookups[:n])
	clear(o.servers[:n])
	for range n {
		u.Release()
	}
}
