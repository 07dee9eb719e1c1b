package portfwd

import (
	"net/netip"

	"taproot/internal/socket"
)

// read serves all UDP sockets until the poller is closed.
func (d *datagrams) read() error {
	b := socket.NewBatch()
	var ready []socket.Readiness
	var err error
	for {
		if ready, err = d.poller.Wait(ready[:0]); err != nil {
			if d.p.ctx.Err() != nil {
				return nil
			}
			return err
		}
		for _, r := range ready {
			d.serve(b, r.ID)
		}
	}
}

// serve takes one batch from a socket. What is left makes the poller report
// the socket again, after the others.
func (d *datagrams) serve(b *socket.Batch, id uint64) {
	d.mu.RLock()
	l, f := d.listeners[id], d.peers[id]
	d.mu.RUnlock()
	switch {
	case l != nil && l.socket.Acquire():
		defer l.socket.Release()
		n, _ := b.Receive(l.socket) // EAGAIN, or an error of an earlier answer
		for i := range n {
			d.fromClient(l, b.Message(i))
		}
	case f != nil && f.peer.Acquire(): // peer is set before f is in peers
		defer f.peer.Release()
		n, _ := b.Receive(f.peer) // EAGAIN, or nobody listens
		for i := range n {
			m := b.Message(i)
			d.toClient(f, m.Payload, m.Segment())
		}
	}
}

// fromClient passes a client's message on.
func (d *datagrams) fromClient(l *udpListener, m socket.Message) {
	from := m.From.AddrPort()
	c := client{netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), m.Local()}
	d.mu.RLock()
	f := l.flows[c]
	d.mu.RUnlock()
	if f == nil {
		if f = d.open(l, c, m.From); f == nil {
			return
		}
	}
	d.touch(f)
	if f.local {
		d.toPeer(f, m)
		return
	}
	if err := d.p.cfg.SendUDP(f.pair.source, f.pair.target, m.Payload, m.Segment()); err != nil {
		d.p.Stats.Dropped.Add(1)
		return
	}
	f.flow.ToTarget.Add(int64(len(m.Payload)))
}

// toClient sends an answer from the address that the client wrote to.
func (d *datagrams) toClient(f *udpFlow, payload []byte, segment int) {
	s := f.listener.socket
	if !s.Acquire() {
		return
	}
	defer s.Release()
	d.touch(f)
	if err := s.Send(&f.to, f.client.local, payload, segment); err != nil {
		d.p.Stats.Dropped.Add(1)
		return
	}
	if !f.answered.Load() {
		f.answered.Store(true)
	}
	f.flow.ToInitiator.Add(int64(len(payload)))
}

// HandleDatagram takes what the guest sends if it is the answer to a published
// port's client: source is the guest's end, destination the client's as the
// guest sees it. With segment above zero, payload is several datagrams of that
// size. It does not block and keeps nothing; false means that somebody else
// must take the datagram.
func (p *Publisher) HandleDatagram(source, destination netip.AddrPort, payload []byte, segment int) bool {
	d := p.datagrams
	d.mu.RLock()
	f := d.guests[pair{destination, source}]
	d.mu.RUnlock()
	if f == nil {
		return false
	}
	d.toClient(f, payload, segment)
	return true
}
