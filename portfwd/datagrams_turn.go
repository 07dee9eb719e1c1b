package portfwd

import "net/netip"

// HandleRefusal takes what the guest says of a datagram of a client's: nobody has
// its port, target. A client that never had an answer is led to the guest's address
// of the other family then, as TCP clients are: its program may have the port there.
// payload is what the datagram had, which is sent there at once, or nil if that is
// not known: then it is up to the client to say it again. It does not block.
func (p *Publisher) HandleRefusal(source, target netip.AddrPort, payload []byte) {
	f := p.datagrams.turn(pair{source, target})
	if f == nil || payload == nil || f.joined.Load() {
		return
	}
	if err := p.cfg.SendUDP(f.pair.source, f.pair.target, payload, 0); err != nil {
		p.Stats.Dropped.Add(1)
		return
	}
	f.flow.ToTarget.Add(int64(len(payload)))
}

// turn puts a flow to the guest's address of the other family in the place of one
// that was refused, and returns it. If that is no way out, it returns nil; where
// both were refused, the client's next datagram begins anew.
func (d *datagrams) turn(refused pair) *udpFlow {
	d.mu.RLock()
	old := d.guests[refused]
	d.mu.RUnlock()
	if old == nil || old.answered.Load() {
		return nil
	}
	if old.turned {
		d.detach(old)
		return nil
	}
	l := old.listener
	f := &udpFlow{listener: l, client: old.client, to: old.to, turned: true}
	f.seen.Store(d.now.Load())
	f.joined.Store(old.joined.Load()) // the refused one may be several
	var ok bool
	if f.pair.source, f.pair.target, ok = d.p.otherFamily(l.Listener, old.client.address, refused.target.Addr()); !ok {
		return nil
	}
	if !d.enter(f, f.pair.source, f.pair.target) {
		return nil
	}
	if !d.replace(old, f) {
		f.flow.Close()
		return nil
	}
	f.flow.SetKiller(f)
	return f
}

// replace puts one flow in the place of another, unless that is gone.
func (d *datagrams) replace(old, f *udpFlow) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old.gone {
		return false
	}
	d.detachLocked(old)
	return d.attachLocked(f)
}
