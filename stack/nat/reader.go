package nat

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
)

// run reads the host sockets and expires flows until ctx ends. It owns one
// goroutine more than the caller's, which has returned when run returns; the
// sockets are closed by then.
func (m *mapper) run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- m.read() }()
	ticker := time.NewTicker(tickLength)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			m.sweep()
		case err := <-done:
			m.close()
			return err
		case <-ctx.Done():
			m.close()
			<-done // says only that the poller is closed
			return nil
		}
	}
}

// read serves the host sockets until the poller is closed.
func (m *mapper) read() error {
	b := socket.NewBatch()
	return m.poller.Serve(func(r socket.Readiness) bool { return m.serve(b, r) })
}

// busyBatch is how much one batch of a socket brings, in bytes, that is about to
// overflow: a quarter of the kernel's default buffer.
const busyBatch = 48 << 10

// serve takes one batch from a socket that is ready, and tells if there may be
// more.
func (m *mapper) serve(b *socket.Batch, r socket.Readiness) (more bool) {
	m.mu.RLock()
	mp := m.ids[r.ID]
	m.mu.RUnlock()
	if mp == nil || !mp.socket.Acquire() {
		return false
	}
	if r.Failed {
		mp.socket.errors.Lock()
		n, _ := b.ReceiveErrors(mp.socket.Socket) // EAGAIN: a sender met the error first
		mp.socket.errors.Unlock()
		for i := range n {
			m.report(mp, b.Message(i))
		}
		more = n > 0
	}
	n, err := b.Receive(mp.socket.Socket)
	total := 0
	for i := range n {
		msg := b.Message(i)
		total += len(msg.Payload)
		m.protocol.receive(mp, msg)
	}
	if n == socket.BatchLen || total >= busyBatch {
		mp.socket.grow()
	}
	mp.socket.Release()
	// A pending error, which the error queue tells better, hides what is behind it.
	return more || n == socket.BatchLen || err != nil && err != unix.EAGAIN
}

// report translates one message of the error queue.
func (m *mapper) report(mp *mapping, msg socket.Message) {
	e, ok := extendedErrorOf(&msg)
	if !ok {
		return
	}
	kind, ok := e.kind()
	p := m.peerOf(mp, msg.From.AddrPort())
	if !ok || p == nil {
		m.Stats.Ignored.Add(1)
		return
	}
	m.sendError(icmpError(kind, m.protocol.original(p, msg.Payload), m.speaker(p, e.offender), e.info))
}

// peerOf returns the peer that a message was sent to, or nil. The kernel's own
// errors may come without a port.
func (m *mapper) peerOf(mp *mapping, target netip.AddrPort) *peer {
	m.mu.RLock()
	p := mp.peers[target]
	m.mu.RUnlock()
	if p != nil || target.Port() != 0 {
		return p
	}
	if p := mp.last.Load(); p != nil && p.target.Addr() == target.Addr() {
		return p
	}
	return nil
}

// speaker returns whom the guest sees as the sender of an error: the target
// under the address that the guest knows, a router under its own, and the
// gateway for everybody that the guest may not reach, the host above all.
func (m *mapper) speaker(p *peer, offender netip.Addr) netip.Addr {
	if offender == p.target.Addr() {
		return p.destination.Addr()
	}
	if !offender.IsValid() || offender.BitLen() != p.destination.Addr().BitLen() {
		return m.cfg.gatewayFor(p.destination.Addr())
	}
	if _, err := m.cfg.Rules.Check(m.check, netip.AddrPortFrom(offender, 0)); err != nil {
		return m.cfg.gatewayFor(offender)
	}
	return offender
}

// sweep lets a tick pass and ends the flows that were idle for too long.
func (m *mapper) sweep() {
	now := m.now.Add(1)
	var idle []*peer
	m.mu.RLock()
	for _, p := range m.peers {
		if p.expired(now) {
			idle = append(idle, p)
		}
	}
	m.mu.RUnlock()
	if len(idle) == 0 {
		return
	}
	var unused []*hostSocket
	m.mu.Lock()
	for i, p := range idle {
		if m.peers[p.pair()] != p || !p.expired(now) { // gone or used meanwhile
			idle[i] = nil
			continue
		}
		if s := m.detachLocked(p); s != nil {
			unused = append(unused, s)
		}
	}
	m.mu.Unlock()
	end(idle, unused)
}

// expired reports whether the peer has been idle for longer than it may. The
// tick in which it was seen does not count, so it is never early.
func (p *peer) expired(now uint32) bool {
	idle := p.idle
	if p.pending.Load() <= 0 {
		idle = p.answered
	}
	return now-p.seen.Load() > idle
}

// detachLocked takes p out of the tables. It returns the socket if p was the
// last peer of its mapping, which is then gone too.
//
// +checklocks:m.mu
func (m *mapper) detachLocked(p *peer) *hostSocket {
	mp := p.mapping
	p.gone = true
	delete(m.peers, p.pair())
	if mp.peers[p.target] == p {
		delete(mp.peers, p.target)
	}
	if p.sameAddress() {
		if mp.hosts[p.target.Addr()]--; mp.hosts[p.target.Addr()] == 0 {
			delete(mp.hosts, p.target.Addr())
		}
	}
	if len(mp.peers) > 0 {
		return nil
	}
	delete(m.mappings, mp.origin)
	delete(m.ids, mp.id)
	return mp.socket
}

// endTurn is how many sockets are closed before the others have their turn, and
// endPause how long that is. Closing one takes about 4 us: 3,000 at once, as many
// questions per second leave behind, would keep the only processor from the
// guest's device for longer than its queue lasts.
const (
	endTurn  = 64
	endPause = time.Millisecond
)

// end closes flows and gives back the tables' references to sockets.
func end(peers []*peer, sockets []*hostSocket) {
	for _, p := range peers {
		if p != nil {
			p.flow.Close()
		}
	}
	for i, s := range sockets {
		if i > 0 && i%endTurn == 0 {
			time.Sleep(endPause)
		}
		s.Release()
	}
}

// close ends all flows and makes read return. It may be called once.
func (m *mapper) close() {
	m.mu.Lock()
	m.closed = true
	var peers []*peer
	for _, p := range m.peers {
		p.gone = true
		peers = append(peers, p)
	}
	var sockets []*hostSocket
	for _, mp := range m.mappings {
		sockets = append(sockets, mp.socket)
	}
	clear(m.peers)
	clear(m.mappings)
	clear(m.ids)
	m.mu.Unlock()
	end(peers, sockets)
	m.poller.Close() // nothing is written through it, so nothing can be lost
}
