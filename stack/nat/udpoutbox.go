package nat

import (
	"taproot/internal/socket"
	"taproot/stack"
)

// outboxHead is how much of the guest's packet is kept for an error, in
// bytes: the longest IPv4 header and the UDP header.
const outboxHead = 60 + udpHeaderLen

// An outbox holds datagrams of one mapping until they go to the host in one
// call. It belongs to one goroutine, that of Handle and Flush. Each datagram
// holds a reference to its socket.
type outbox struct {
	socket.Outbox
	dontFragment bool // all of them

	peers [socket.OutboxLen]*peer
	heads [socket.OutboxLen][]byte // capacity outboxHead
}

func newOutbox() *outbox {
	o := &outbox{}
	for i := range o.heads {
		o.heads[i] = make([]byte, 0, outboxHead)
	}
	return o
}

// fits tells whether a datagram can go in one call with those that are held.
func (o *outbox) fits(p *peer, size int, dontFragment bool) bool {
	return o.Len() == 0 || o.Takes(size) && o.peers[0].mapping == p.mapping && o.dontFragment == dontFragment
}

// hold puts a datagram into the outbox, after sending what it does not go
// with. It returns false for one that is to be sent by itself.
func (u *UDP) hold(p *peer, d stack.Datagram, c socket.Control, dontFragment bool) bool {
	o := u.outbox
	if o == nil {
		return false
	}
	alone := d.Segment > 0 || len(d.Payload) > socket.OutboxMax
	if alone || !o.fits(p, len(d.Payload), dontFragment) {
		u.Flush()
	}
	if alone {
		return false
	}
	i := o.Len()
	if i == 0 {
		o.dontFragment = dontFragment
		p.mapping.socket.setDontFragment(dontFragment)
	}
	o.peers[i] = p
	o.heads[i] = append(o.heads[i][:0], d.Header[:min(len(d.Header), outboxHead)]...)
	o.Add(&p.to, d.Payload, c)
	return true
}

// Flush sends what Handle holds back. It must be called on the goroutine that
// calls Handle, when there is nothing more to be handled for now.
func (u *UDP) Flush() {
	o := u.outbox
	if o == nil || o.Len() == 0 {
		return
	}
	s, n := o.peers[0].mapping.socket, o.Len()
	o.Send(s.Socket, func(i int, taken bool) {
		p := o.peers[i]
		if taken {
			p.sentDatagram(len(o.Payload(i)))
			return
		}
		u.dispatch(p, stack.Datagram{Payload: o.Payload(i), Header: o.heads[i]}, o.Control(i))
	})
	clear(o.peers[:n])
	for range n {
		s.Release()
	}
}
