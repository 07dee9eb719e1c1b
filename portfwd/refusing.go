package portfwd

import (
	"fmt"
	"slices"

	"taproot/stack/flow"
)

// listenerOf returns a socket that may be paused: of a TCP port of the host that
// is there as long as its rule is, and nobody else's.
func (t *Table) listenerOf(id SocketID) (Listener, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id.Rule]
	if e == nil || e.By != 0 || id.Index < 0 || id.Index >= len(e.sockets) {
		return Listener{}, false
	}
	s := e.sockets[id.Index]
	l := e.Rule.listener(e.ID, id.Index, s.at, s.port)
	return l, !s.given && l.Direction == Inbound && l.Proto == flow.TCP && !l.Unix && !l.TargetUnix
}

// pause has the engine pause a socket. It returns false if there is no such
// socket any more.
func (t *Table) pause(id SocketID) bool {
	return t.change(id, func(e *entry) {
		e.paused = append(slices.Clone(e.paused), id.Index)
	}, t.cfg.Carrier.Pause)
}

// resume ends what pause began.
func (t *Table) resume(id SocketID) {
	t.change(id, func(e *entry) {
		e.paused = slices.DeleteFunc(slices.Clone(e.paused), func(i int) bool { return i == id.Index })
	}, t.cfg.Carrier.Resume)
}

// change replaces the entry of a socket's rule by one in which paused is another,
// and tells the engine. An engine that is gone gets all sockets anew.
func (t *Table) change(id SocketID, edit func(*entry), tell func(SocketID) error) bool {
	t.carrying.Lock()
	defer t.carrying.Unlock()
	t.mu.Lock()
	old := t.entries[id.Rule]
	t.mu.Unlock()
	if old == nil {
		return false
	}
	e := *old
	edit(&e)
	e.setRefusing()
	if len(e.paused) == len(old.paused) || !t.replace(old, &e) {
		return false
	}
	if err := tell(id); err != nil {
		t.cfg.Log.Warn("engine not told of a port", "rule", id.Rule, "error", err)
	}
	return true
}

// setRefusing makes the state what paused says.
func (e *entry) setRefusing() {
	if len(e.paused) == 0 {
		e.State, e.Err = StateOpen, ""
		return
	}
	s := e.sockets[e.paused[0]]
	l := e.Rule.listener(e.ID, e.paused[0], s.at, s.port)
	e.State, e.Err = StateRefusing, fmt.Sprintf("nobody in the guest listens at port %d", l.TargetPort)
}

// resumeAll has all paused sockets listen, for an engine that knows of none.
func (t *Table) resumeAll() {
	for _, old := range t.all() {
		if len(old.paused) == 0 {
			continue
		}
		for _, i := range old.paused {
			t.listenAgain(old, i)
		}
		e := *old
		e.paused = nil
		e.setRefusing()
		t.replace(old, &e)
	}
}

// listenAgain has a socket listen here rather than in the engine.
func (t *Table) listenAgain(e *entry, index int) {
	if err := control(e.sockets[index].file, listenAgain); err != nil {
		t.cfg.Log.Warn("port does not listen again", "rule", e.ID, "error", err)
	}
}
