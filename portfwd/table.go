package portfwd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"taproot/stack/flow"
)

// ErrNoRule says that there is no rule with an id.
var ErrNoRule = errors.New("no such rule")

// A Carrier brings sockets to the engine. The Table calls one method at a time.
type Carrier interface {
	// Publish hands sockets over, as many files as listeners; the files stay
	// the Table's. It fails only if the rule shall not be: without an engine it
	// returns nil, since the next one gets all sockets by Table.Republish.
	Publish(listeners []Listener, files []*os.File) error

	// Unpublish has the engine close the sockets of a rule. closed returns when it
	// has, so that the ports are free; it is called once, and others may be called
	// meanwhile.
	Unpublish(rule int, e Existing) (closed func() error, err error)

	// Pause makes the engine take a TCP socket out of listening, and Resume make
	// it listen again. Without an engine they do nothing: sockets that are
	// published listen.
	Pause(id SocketID) error
	Resume(id SocketID) error
}

// Existing says what becomes of the connections of a rule that is removed.
type Existing uint8

// What may become of them. UDP flows end anyway: their answers would leave from
// the rule's socket.
const (
	ExistingStay   Existing = iota // until they end by themselves
	ExistingKilled                 // both ends are reset
)

// A TableConfig is what NewTable needs. Log may be nil.
type TableConfig struct {
	Carrier Carrier

	// Sockets opens the sockets of outbound rules; nil if there are to be none.
	Sockets SocketFunc

	// Root opens the guest's root directory with O_PATH, for Unix sockets in
	// there; nil if there are to be none. The Table closes it.
	Root func() (*os.File, error)

	// Diag opens a NETLINK_SOCK_DIAG socket of the side on which others listen:
	// inside the guest for Inbound. nil: no automatic rules.
	Diag func(context.Context, Direction) (*os.File, error)

	// Passed are sockets of the host that the caller of this program opened: a
	// rule that would listen where one is bound already uses that one. They
	// stay open, and the caller's.
	Passed []*os.File

	// MaxSockets is how many sockets all rules have at most. 0 means three
	// quarters of the limit of open files (RLIMIT_NOFILE): the engine has the
	// same limit, and needs the rest for connections.
	MaxSockets int

	Log *slog.Logger
}

// A Table holds the rules and their sockets. It is safe for concurrent use.
type Table struct {
	cfg    TableConfig
	passed []given // of cfg.Passed

	// carrying is held while the Carrier is called, so that the engine hears
	// of a rule's birth before its death.
	carrying sync.Mutex

	// retrying is held while rules that wait are tried, so that two who try one
	// do not get in each other's way.
	retrying sync.Mutex

	// scanning is held while automatic rules are looked at and changed, so that
	// none sees a port that another has opened but not entered.
	scanning sync.Mutex
	autos    autos // guarded by scanning, but for its channel

	guestFiles guestFiles

	mu sync.Mutex
	// +checklocks:mu
	entries map[int]*entry
	// +checklocks:mu
	last int // id
	// +checklocks:mu
	sockets int // of all rules, with those that are about to be opened
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	told map[chan Change]struct{} // see Changes
}

// NewTable returns an empty table.
func NewTable(cfg TableConfig) *Table {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxSockets <= 0 {
		cfg.MaxSockets = defaultMaxSockets()
	}
	t := &Table{cfg: cfg, autos: newAutos(cfg.Diag), guestFiles: newGuestFiles()}
	t.examinePassed()
	t.mu.Lock() // nobody else has t yet, but checklocks cannot know
	defer t.mu.Unlock()
	t.entries = make(map[int]*entry)
	t.told = make(map[chan Change]struct{})
	return t
}

// Add opens the sockets of a rule, gives them to the engine and returns the
// rule's id. Ids count from 1 and are never used again. If a port cannot be
// bound, nothing is left of the rule and the error is a *BindError. Ports of
// automatic rules are no obstacle: they are r's as long as there is r. A port whose
// owner is about to be gone is waited for, see leavingPause; else ctx ends only
// the wait for sockets of the guest's namespace.
func (t *Table) Add(ctx context.Context, r Rule) (id int, err error) {
	for pause := leavingPause; ; pause *= 2 {
		if id, err = t.addNamed(ctx, r); err == nil {
			return id, nil
		}
		if err = t.explain(ctx, r, err); !isLeaving(err) || pause > leavingLongest {
			return 0, err
		}
		t.cfg.Log.Debug("rule waits for a port", "rule", r.String(), "error", err)
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(pause):
		}
	}
}

// A port that is about to be free is tried again: another instance that was killed
// has it for some milliseconds more, and whoever starts one again at once is not to
// fail. The pause is leavingPause at first, and twice as long each time up to
// leavingLongest, which is 1.3 s in all. It is no limit of time: on a busy machine it
// may take longer than that to look who has the port.
const (
	leavingPause   = 10 * time.Millisecond
	leavingLongest = 64 * leavingPause
)

// add is Add for automatic rules too, which do not want to know who has a port; by is
// the id of one.
func (t *Table) add(ctx context.Context, r Rule, by int) (id int, err error) {
	if err := r.check(); err != nil {
		return 0, err
	}
	room, err := t.reserve(r)
	if err != nil {
		return 0, err
	}
	sockets, err := t.open(ctx, r)
	t.release(room - len(sockets))
	if waits(r, err) {
		return t.wait(ctx, Entry{Rule: r, By: by, State: StateWaiting, Err: err.Error()})
	}
	if err != nil {
		return 0, err
	}
	return t.insert(Entry{Rule: r.picked(sockets), Bound: distinct(sockets), By: by}, sockets)
}

// picked returns the rule with the port that the kernel picked.
func (r Rule) picked(sockets []bound) Rule {
	if r.Listen.Port() == 0 && r.ListenUnix == "" {
		r.Listen = netip.AddrPortFrom(r.Listen.Addr(), sockets[0].port)
	}
	return r
}

// open opens the sockets of a rule.
func (t *Table) open(ctx context.Context, r Rule) ([]bound, error) {
	if err := t.checkTarget(r); err != nil {
		return nil, err
	}
	switch {
	case r.ListenUnix != "":
		return t.openUnix(r)
	case r.Direction == Outbound:
		return t.openGuest(ctx, r)
	}
	return t.openHost(r)
}

// insert gives a rule its id and its sockets to the engine. It takes them over.
func (t *Table) insert(new Entry, sockets []bound) (id int, err error) {
	e, closed, err := t.carry(new, sockets)
	if err != nil {
		if closed != nil {
			_ = closed() // it fails where there is no engine any more
		}
		t.unlink(sockets)
		t.drop(sockets)
		return 0, err
	}
	t.cfg.Log.Debug("rule added", "id", e.ID, "rule", e.Rule.String(), "ports", e.Bound)
	return e.ID, nil
}

// carry is insert, and leaves the sockets to the caller where it fails. closed waits
// then for the engine to have closed its own, and may be nil: nobody else shall wait.
func (t *Table) carry(new Entry, sockets []bound) (e *entry, closed func() error, err error) {
	t.carrying.Lock()
	defer t.carrying.Unlock()
	if e, err = t.enter(new, sockets); err != nil {
		return nil, nil, err
	}
	if err := t.publish([]*entry{e}); err != nil {
		t.leave(e.ID)
		closed, _ = t.cfg.Carrier.Unpublish(e.ID, ExistingKilled) // an engine that cannot be told has ended
		return nil, closed, fmt.Errorf("publish %v: %w", e.Rule, err)
	}
	return e, nil, nil
}

// drop closes a rule's sockets.
func (t *Table) drop(sockets []bound) {
	closeAll(sockets)
	t.release(len(sockets))
}

// enter gives a rule its id.
func (t *Table) enter(new Entry, sockets []bound) (*entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, fmt.Errorf("publish %v: %w", new.Rule, os.ErrClosed)
	}
	t.last++
	new.ID = t.last
	e := &entry{Entry: new, sockets: sockets}
	t.entries[e.ID] = e
	t.tellLocked(RuleAdded, e.Entry)
	return e, nil
}

// distinct counts ports.
func distinct(sockets []bound) int {
	ports := make(map[uint16]struct{}, len(sockets))
	for _, s := range sockets {
		ports[s.port] = struct{}{}
	}
	return len(ports)
}

// leave takes a rule out.
func (t *Table) leave(id int) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e != nil {
		delete(t.entries, id)
		t.tellLocked(RuleRemoved, e.Entry)
	}
	return e
}

// publish gives the engine all sockets of some rules.
func (t *Table) publish(list []*entry) error {
	var listeners []Listener
	var files []*os.File
	for _, e := range list {
		for i, s := range e.sockets {
			listeners, files = append(listeners, e.Rule.listener(e.ID, i, s.at, s.port)), append(files, s.file)
		}
	}
	if len(files) == 0 {
		return nil
	}
	return t.cfg.Carrier.Publish(listeners, files)
}

// Remove closes the sockets of a rule. TCP connections that exist go on.
func (t *Table) Remove(id int) error { return t.remove(id, ExistingStay) }

// RemoveKill is Remove for who wants the rule's connections to end too: both
// ends are reset.
func (t *Table) RemoveKill(id int) error { return t.remove(id, ExistingKilled) }

func (t *Table) remove(id int, existing Existing) error {
	if t.isAuto(id) {
		if found, err := t.removeAuto(id, existing); found {
			return err
		}
	}
	return t.removeRule(id, existing)
}

// removeRule removes a rule that is not automatic.
func (t *Table) removeRule(id int, existing Existing) error {
	t.carrying.Lock()
	e := t.leave(id)
	t.carrying.Unlock() // nobody else shall wait for the guest's files
	if e == nil {
		return fmt.Errorf("unpublish %d: %w", id, ErrNoRule)
	}
	t.unlink(e.sockets)
	if err := t.unpublish(e, existing); err != nil {
		return fmt.Errorf("unpublish %d: %w", id, err)
	}
	t.cfg.Log.Debug("rule removed", "id", id, "rule", e.Rule.String())
	return nil
}

// unpublish closes a rule's sockets, here and in the engine. Nobody else waits for
// the engine.
func (t *Table) unpublish(e *entry, existing Existing) error {
	t.carrying.Lock()
	t.drop(e.sockets)
	closed, err := t.cfg.Carrier.Unpublish(e.ID, existing)
	t.carrying.Unlock()
	if err != nil {
		return err
	}
	return closed()
}

// Republish gives all sockets to an engine that has none.
func (t *Table) Republish() error {
	t.carrying.Lock()
	defer t.carrying.Unlock()
	t.resumeAll()
	if err := t.publish(t.all()); err != nil {
		return fmt.Errorf("publish again: %w", err)
	}
	return nil
}

// List returns the rules by id.
func (t *Table) List() []Entry {
	return entries(t.all())
}

func entries(all []*entry) []Entry {
	list := make([]Entry, len(all))
	for i, e := range all {
		list[i] = e.Entry
	}
	return list
}

// listens tells whether a rule listens on a port in a direction.
func (t *Table) listens(d Direction, p flow.Proto, port uint16) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		if e.Rule.Direction == d && e.Rule.Proto == p && e.Rule.Overlaps(port) {
			return true
		}
	}
	return false
}

// taken tells whether a rule listens where r, which has one port, would, or waits to.
func (t *Table) taken(r Rule) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takenLocked(r) != nil
}

// takenLocked returns a rule that listens where r, which has one port, would:
// rather one that does so already than one that waits. It returns nil if there is
// none.
//
// +checklocks:t.mu
func (t *Table) takenLocked(r Rule) (found *entry) {
	for _, e := range t.entries {
		if e.Rule.Direction == r.Direction && e.Rule.Proto == r.Proto && e.Rule.ListenUnix == "" &&
			e.Rule.Overlaps(r.Listen.Port()) && e.Rule.meets(r) {
			if found = e; e.State != StateWaiting {
				break
			}
		}
	}
	return found
}

// meets tells whether two rules listen on addresses that get in each other's
// way.
func (r Rule) meets(other Rule) bool {
	for _, a := range r.addresses() {
		for _, b := range other.addresses() {
			if meet(a, b) {
				return true
			}
		}
	}
	return false
}

// meet tells whether sockets at two addresses get in each other's way; an
// invalid one stands for all of both families.
func meet(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid() || a == b:
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a.IsUnspecified() || b.IsUnspecified()
}

// all returns the rules by id.
func (t *Table) all() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.allLocked()
}

// +checklocks:t.mu
func (t *Table) allLocked() []*entry {
	list := make([]*entry, 0, len(t.entries))
	for _, e := range t.entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *entry) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Close closes all sockets without a word to the engine, which ends too.
// Nothing can be added afterwards.
func (t *Table) Close() {
	t.close()
	t.unfollow()
}

func (t *Table) close() {
	t.carrying.Lock()
	defer t.carrying.Unlock()
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	var sockets []bound
	for _, e := range t.all() {
		t.leave(e.ID)
		sockets = append(sockets, e.sockets...)
	}
	t.unlink(sockets)
	t.drop(sockets)
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.told {
		t.untellLocked(c)
	}
}
