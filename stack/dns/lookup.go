package dns

import (
	"encoding/binary"
	"time"
)

// A lookup is a query that came over UDP, from the guest's question to its
// answer. It belongs to whoever has taken it off its socket's list of open
// questions: a reply, a timer, or the socket's failure.
type lookup struct {
	f      *Forwarder
	round  round  // its query has the ID under which it was asked last
	id     uint16 // the guest's
	answer func(reply []byte)

	// What follows is of the question that is open, and guarded by asker.mu.
	asked *server
	timer *time.Timer
}

// begin asks the first server that can be asked, with the next Flush where
// questions are held back.
func (l *lookup) begin() { l.try((*asker).hold) }

// next asks the next server that can be asked, or ends the lookup.
func (l *lookup) next() { l.try((*asker).ask) }

// try is next by way of ask.
func (l *lookup) try(ask func(*asker, *lookup, *server, time.Duration) error) {
	for {
		s, patience := l.round.server()
		if s == nil {
			reply := l.f.giveUp(&l.round)
			l.end(reply)
			return
		}
		err := ask(l.f.asker, l, s, patience)
		if err == nil || err == errClosed {
			return
		}
		l.f.blame(s, err)
	}
}

// lost goes on after a server that did not answer.
func (l *lookup) lost(s *server, err error) {
	l.f.blame(s, err)
	l.next()
}

// replied goes on after a reply, which is not kept.
func (l *lookup) replied(s *server, reply []byte) {
	s.praise()
	if l.round.refused(reply, func(b []byte) []byte { return withID(b, l.id) }) {
		l.next()
		return
	}
	l.end(reply)
}

// end answers the guest. It changes reply's ID.
func (l *lookup) end(reply []byte) {
	binary.BigEndian.PutUint16(reply, l.id)
	l.f.underWay.Add(-1)
	l.answer(reply)
}
