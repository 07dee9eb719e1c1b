package portfwd

import (
	"time"

	"taproot/stack/flow"
)

// Kill implements flow.Killer.
func (f *udpFlow) Kill() { f.listener.owner.detach(f) }

// Claim implements flow.Yielder. Clients from outside give way, as they begin anew
// with their next datagram and look the same to the guest then; those in the guest
// share the table with whoever they are.
func (f *udpFlow) Claim() (c flow.Claim, yields bool) {
	idle := f.listener.owner.now.Load() - f.seen.Load()
	return flow.Claim{Assured: f.isAssured(), Idle: time.Duration(idle) * tickLength}, f.listener.Direction == Inbound
}

// hear notes that the client has said something.
func (f *udpFlow) hear() {
	if f.answered.Load() && !f.assured.Load() {
		f.assured.Store(true)
	}
}

// isAssured tells whether the client is there: it has gone on after an answer. In the
// guest it is there if it was answered at all.
func (f *udpFlow) isAssured() bool {
	return f.assured.Load() || f.listener.Direction == Outbound && f.answered.Load()
}

var _ flow.Yielder = (*udpFlow)(nil)
