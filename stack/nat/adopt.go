package nat

import (
	"taproot/internal/socket"
	"taproot/stack/flow"
)

// An adoption is a connection of the host's that waits for its request.
type adoption struct {
	flow *flow.Flow
	host int // -1: the target has reset the connection already
	done func(connected bool)
}

// Adopt takes over a flow and a connection of the host's that were made
// elsewhere: the guest's next request with the flow's key gets them instead of
// new ones. done is told, before the bytes move, whether the guest's handshake
// was completed. Whoever calls Adopt calls Withdraw after a while.
func (t *TCP) Adopt(f *flow.Flow, host int, done func(connected bool)) {
	t.mu.Lock()
	_, taken := t.adopted[f.Key]
	if !taken && !t.over {
		t.adopted[f.Key] = adoption{f, host, done}
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	f.Close()
	socket.Reset(host)
}

// Withdraw ends an adoption that no request has come for: the connection is
// reset and the flow closed. Otherwise it does nothing and returns false.
func (t *TCP) Withdraw(f *flow.Flow) bool {
	t.mu.Lock()
	a, ok := t.adopted[f.Key]
	ok = ok && a.flow == f
	if ok {
		delete(t.adopted, f.Key)
	}
	t.mu.Unlock()
	if ok {
		f.Close()
		socket.Reset(a.host)
	}
	return ok
}

// take returns what was adopted for a key.
func (t *TCP) take(key flow.Key) (adoption, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, ok := t.adopted[key]
	delete(t.adopted, key)
	return a, ok
}

// disown ends all adoptions.
func (t *TCP) disown() {
	t.mu.Lock()
	left := t.adopted
	t.adopted = nil
	t.mu.Unlock()
	for _, a := range left {
		a.flow.Close()
		socket.Reset(a.host)
	}
}
