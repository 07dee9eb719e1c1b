package portfwd

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
)

// read serves all UDP sockets until the poller is closed.
func (d *datagrams) read() error {
	b := socket.NewBatch()
	err := d.poller.Serve(func(r socket.Readiness) bool { return d.serve(b, r.ID) })
	if d.p.ctx.Err() != nil {
		return nil
	}
	return err
}

// maxJoined is how much several datagrams may have together, in bytes: what one
// packet of IPv4 carries.
const maxJoined = 65535 - 20 - 8

// serve takes one batch from a socket, and tells if there may be more, which is
// served after the others. Datagrams of one client that follow each other go
// on together: to the guest's kernel, or the host's, they cost little more than
// one.
func (d *datagrams) serve(b *socket.Batch, id uint64) (more bool) {
	d.mu.RLock()
	l, f := d.listeners[id], d.peers[id]
	d.mu.RUnlock()
	var s *socket.Socket
	switch {
	case l != nil:
		s = l.socket
	case f != nil:
		s = f.peer // which is set before f is in peers
	}
	if s == nil || !s.Acquire() {
		return false
	}
	defer s.Release()
	n, err := b.Receive(s)
	for i := 0; i < n; {
		var m socket.Message
		var segment int
		m, segment, i = b.Join(i, n, maxJoined)
		if l != nil {
			d.fromClient(l, m, segment)
		} else {
			d.toClient(f, m.Payload, segment)
		}
	}
	// An error is about an earlier answer, or nobody listens; it hides what is
	// behind it.
	return n == socket.BatchLen || err != nil && err != unix.EAGAIN
}

// fromClient passes a client's message on, which is several datagrams if segment
// is above zero.
func (d *datagrams) fromClient(l *udpListener, m socket.Message, segment int) {
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
	f.hear()
	if f.local {
		d.toPeer(f, m.Payload, segment)
		return
	}
	if segment > 0 && !f.joined.Load() {
		f.joined.Store(true)
	}
	if err := d.p.cfg.SendUDP(f.pair.source, f.pair.target, m.Payload, segment); err != nil {
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
	d.answer(f, payload, segment)
}

// answer is toClient with a reference to the listener's socket.
func (d *datagrams) answer(f *udpFlow, payload []byte, segment int) {
	if err := f.listener.socket.Send(&f.to, f.client.local, payload, segment); err != nil {
		d.p.Stats.Dropped.Add(1)
		return
	}
	f.answer(len(payload))
}

// answer counts what has left for the client, in bytes.
func (f *udpFlow) answer(n int) {
	if !f.answered.Load() {
		f.answered.Store(true)
	}
	f.flow.ToInitiator.Add(int64(n))
}

// HandleDatagram takes what the guest sends if it is the answer to a published
// port's client: source is the guest's end, destination the client's as the
// guest sees it. With segment above zero, payload is several datagrams of that
// size. It does not block and keeps nothing but what PublisherConfig.HoldBack
// allows; false means that somebody else must take the datagram.
func (p *Publisher) HandleDatagram(source, destination netip.AddrPort, payload []byte, segment int) bool {
	d := p.datagrams
	d.mu.RLock()
	f := d.guests[pair{destination, source}]
	d.mu.RUnlock()
	if f == nil {
		return false
	}
	if !d.hold(f, payload, segment) {
		d.toClient(f, payload, segment)
	}
	return true
}
