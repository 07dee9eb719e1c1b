package portfwd

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack/flow"
)

// maxQueued is how many messages wait while the socket to the target is made,
// which takes a millisecond; more are dropped.
const maxQueued = 32

// A queued is a message that waits.
type queued struct {
	payload []byte
	segment int
}

// open makes the flow of a client, or counts why not and returns nil. Only the
// reader calls it.
func (d *datagrams) open(l *udpListener, c client, to socket.Address) *udpFlow {
	f := &udpFlow{listener: l, client: c, to: to, local: l.local(c.address.Addr())}
	f.seen.Store(d.now.Load())
	initiator, target := c.address, netip.AddrPortFrom(l.loopbacks(c.address.Addr())[0], l.TargetPort)
	if !f.local {
		var ok bool
		if f.pair.source, f.pair.target, ok = d.p.route(l.Listener, c.address); !ok {
			d.p.Stats.Unroutable.Add(1)
			return nil
		}
		initiator, target = f.pair.source, f.pair.target
	}
	if !d.enter(f, initiator, target) {
		return nil
	}
	if !d.attach(f) {
		f.flow.Close()
		return nil
	}
	f.flow.SetKiller(f)
	d.p.cfg.Log.Debug("flow opened", "proto", "udp", "initiator", initiator, "target", target)
	if f.local {
		d.p.connections.Go(func() { d.connect(f) })
	}
	return f
}

// enter opens the flow in the table of all, or counts that it is full. Whoever can
// invent senders could fill it, so others give way.
func (d *datagrams) enter(f *udpFlow, initiator, target netip.AddrPort) bool {
	flows, k := d.p.cfg.Flows, flow.Key{Proto: flow.UDP, Initiator: initiator, Target: target}
	var err error
	f.flow, err = flows.Open(k)
	if errors.Is(err, flow.ErrFull) && d.evictions.Allow() && flows.MakeRoom(flow.UDP) {
		d.p.Stats.Evicted.Add(1)
		f.flow, err = flows.Open(k)
	}
	if err != nil {
		d.p.Stats.Full.Add(1)
		return false
	}
	f.flow.SetRule(f.listener.Rule, f.listener.Direction == Inbound)
	return true
}

// attach enters a flow in the tables, with another source port where another
// client looks the same to the guest.
func (d *datagrams) attach(f *udpFlow) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attachLocked(f)
}

// +checklocks:d.mu
func (d *datagrams) attachLocked(f *udpFlow) bool {
	if d.closed || d.listeners[f.listener.id] != f.listener {
		return false
	}
	if !f.local {
		for i := 1; d.guests[f.pair] != nil; i++ {
			if i == dialTries {
				d.p.Stats.Full.Add(1)
				return false
			}
			f.pair.source = anotherPort(f.pair.source)
		}
		d.guests[f.pair] = f
	}
	f.listener.flows[f.client] = f
	d.flows[f] = struct{}{}
	return true
}

// connect makes the socket to the target of a local flow, and sends what has
// come meanwhile.
func (d *datagrams) connect(f *udpFlow) {
	ctx, cancel := context.WithTimeout(d.p.ctx, dialTimeout)
	defer cancel()
	file, to, err := d.p.dialLocal(ctx, f.listener.Listener, f.client.address, unix.SOCK_DGRAM)
	var s *socket.Socket
	if err == nil {
		s, err = socket.Take(file)
	}
	if err != nil {
		d.p.countFailure(err)
		d.p.cfg.Log.Debug("no flow", "proto", "udp", "initiator", f.client.address, "target", to, "error", err)
		d.detach(f)
		return
	}
	s.Datagrams()
	for {
		queue, done := d.settle(f, s)
		if done {
			return
		}
		for _, q := range queue {
			d.send(f, s, q.payload, q.segment)
		}
	}
}

// settle returns what waits, or gives the flow its socket when nothing does.
// It takes the socket over when it is done.
func (d *datagrams) settle(f *udpFlow, s *socket.Socket) (queue []queued, done bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.gone {
		s.Release()
		return nil, true
	}
	if queue, f.queue = f.queue, nil; len(queue) > 0 {
		return queue, false
	}
	d.lastID++
	if err := d.poller.Add(s.FD(), d.lastID); err != nil {
		s.Release()
		d.detachLocked(f)
		return nil, true
	}
	f.id, f.peer = d.lastID, s
	d.peers[f.id] = f
	return nil, true
}

// toPeer sends a message to the target of a local flow, or lets it wait.
func (d *datagrams) toPeer(f *udpFlow, payload []byte, segment int) {
	d.mu.RLock()
	s := f.peer
	d.mu.RUnlock()
	if s == nil {
		s = d.wait(f, payload, segment)
	}
	if s == nil {
		return
	}
	if s.Acquire() {
		defer s.Release()
		d.send(f, s, payload, segment)
	}
}

// wait puts a message into the queue, or returns the socket if there is one
// now.
func (d *datagrams) wait(f *udpFlow, payload []byte, segment int) *socket.Socket {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.peer != nil {
		return f.peer
	}
	if f.gone || len(f.queue) >= maxQueued {
		d.p.Stats.Dropped.Add(1)
		return nil
	}
	f.queue = append(f.queue, queued{slices.Clone(payload), segment})
	return nil
}

// send sends a message to the target of a local flow.
func (d *datagrams) send(f *udpFlow, s *socket.Socket, payload []byte, segment int) {
	if err := s.Send(nil, netip.Addr{}, payload, segment); err != nil {
		d.p.Stats.Dropped.Add(1)
		return
	}
	f.flow.ToTarget.Add(int64(len(payload)))
}
