package engine

import (
	"sync"
	"time"
)

// An EventKind says what happened to an instance.
type EventKind string

// The kinds of events, besides the changes of rules, of which portfwd.Table
// tells.
const (
	EventEngineDied       EventKind = "engine-died"
	EventEngineStarted    EventKind = "engine-started"     // again
	EventEngineReplaced   EventKind = "engine-replaced"    // as it was asked for
	EventEngineRolledBack EventKind = "engine-rolled-back" // to the program before
	EventNetworkGone      EventKind = "network-gone"
	EventNetworkChanged   EventKind = "network-changed" // the guest's
	EventHostChanged      EventKind = "host-changed"    // its addresses or resolvers
	EventShortcutOn       EventKind = "shortcut-on"
	EventShortcutOff      EventKind = "shortcut-off"
	EventFlowLimit        EventKind = "flow-limit"
)

// An Event is something that happened to an instance.
type Event struct {
	Time time.Time
	Kind EventKind
	Why  string // or what, for people; may be ""
}

// eventsQueued is how many events wait for somebody who is told of them.
const eventsQueued = 256

// broadcast tells of events. The zero value tells nobody.
type broadcast struct {
	mu sync.Mutex
	// +checklocks:mu
	told map[chan Event]struct{}
}

// tell tells everybody. Whoever has let too many wait is told no more.
func (e *broadcast) tell(kind EventKind, why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	event := Event{time.Now(), kind, why}
	for c := range e.told {
		select {
		case c <- event:
		default:
			e.leaveLocked(c)
		}
	}
}

// listen returns where events come from now on, until stop is called.
func (e *broadcast) listen() (list <-chan Event, stop func()) {
	c := make(chan Event, eventsQueued)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told == nil {
		e.told = make(map[chan Event]struct{})
	}
	e.told[c] = struct{}{}
	return c, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.leaveLocked(c)
	}
}

// +checklocks:e.mu
func (e *broadcast) leaveLocked(c chan Event) {
	if _, ok := e.told[c]; ok {
		delete(e.told, c)
		close(c)
	}
}
