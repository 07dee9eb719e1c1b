package shortcut

import (
	"syscall"

	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/shortcut/mark"
)

// Joined says that a flow from a source to a target has become a connection by a
// socket of Dial's, until Ended: segments of it that come as frames are put back.
func (d *Dialer) Joined(f *flow.Flow) { d.bonds.know(f) }

// Ended ends what Joined began.
func (d *Dialer) Ended(f *flow.Flow) { d.bonds.forget(f) }

// HandleStray does what there is to do about a segment that the stack would answer
// with RST, and returns false if it shall. One from the guest to a client says that
// the rules did not lead it to our socket. Of a joined connection, it is put back, as
// Shortcut.HandleStray does it; if it answers one who dials, the stack has to do it
// instead. HandleStray does not block.
func (d *Dialer) HandleStray(seg *stack.Stray) bool {
	f := d.bonds.find(flow.Key{Proto: flow.TCP, Initiator: seg.Destination, Target: seg.Source})
	switch {
	case f == nil:
		d.strayed(seg)
		return false
	case seg.DSCP == mark.Local: // put back, and forwarded to us again: there are no rules
		return true
	case d.bonds.isStuck(f, seg) && !d.enabled.Load():
		f.Kill()
		return true
	case d.isOfNow(f):
		d.giveUp()
	}
	d.Stats.Strayed.Add(1)
	_ = d.cfg.Stack.PutBackStray(seg, mark.Local) // counted by the link
	return true
}

// strayed sees whether a segment is the answer to one who dials. That it is anything
// but a SYN with ACK proves nothing: it may be the end of a connection of before.
func (d *Dialer) strayed(seg *stack.Stray) {
	if !seg.SYNACK {
		return
	}
	id, known := d.noteAnswer(key{seg.Destination, seg.Source})
	if !known {
		return
	}
	d.giveUp()
	if p := d.takePending(id); p != nil {
		d.finish(p, syscall.ETIMEDOUT)
	}
}

// noteAnswer notes an answer to a dial, and returns the dial's id, 0 while it has none.
func (d *Dialer) noteAnswer(k key) (id uint64, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.keys[k]
	if p == nil {
		return 0, false
	}
	p.stray = true
	return p.id, true
}

// giveUp says that the rules do not work, once.
func (d *Dialer) giveUp() {
	if d.enabled.CompareAndSwap(true, false) {
		d.cfg.Broken()
	}
}
