package portfwd

import "taproot/internal/socket"

// An outbox holds the guest's answers that leave by one published socket until
// they go in one call. It belongs to one goroutine, that of HandleDatagram and
// Flush, and has a reference to the socket while it is not empty.
type outbox struct {
	socket.Outbox
	socket *socket.Socket
	flows  [socket.OutboxLen]*udpFlow
}

// hold puts an answer into the outbox, after sending what it does not go with.
// It returns false for one that is to be sent by itself.
func (d *datagrams) hold(f *udpFlow, payload []byte, segment int) bool {
	o := d.outbox
	if o == nil {
		return false
	}
	s := f.listener.socket
	alone := segment > 0 || len(payload) > socket.OutboxMax
	if alone || o.Len() > 0 && (o.socket != s || !o.Takes(len(payload))) {
		d.flush()
	}
	if alone || o.Len() == 0 && !s.Acquire() {
		return false
	}
	d.touch(f)
	o.socket, o.flows[o.Len()] = s, f
	var c socket.Control
	c.Source(f.client.local)
	o.Add(&f.to, payload, c)
	return true
}

// flush sends what is held.
func (d *datagrams) flush() {
	o := d.outbox
	if o == nil || o.Len() == 0 {
		return
	}
	n := o.Len()
	o.Send(o.socket, func(i int, taken bool) {
		f, payload := o.flows[i], o.Payload(i)
		if !taken {
			d.answer(f, payload, 0)
			return
		}
		f.answer(len(payload))
	})
	clear(o.flows[:n])
	o.socket.Release()
	o.socket = nil
}

// Flush sends what HandleDatagram holds back. It must be called on the
// goroutine that calls HandleDatagram, when there is nothing more to be handled
// for now.
func (p *Publisher) Flush() { p.datagrams.flush() }
