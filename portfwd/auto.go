package portfwd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"time"

	"taproot/stack/flow"
	"taproot/stack/policy"
)

const (
	// autoPeriod is how often ports are listed: so that a rule is there or gone
	// within 100 ms. To be woken for it costs 0.2 ms of processor time (kernel and
	// runtime), a list of both families 60 us when all is in the cache: TCP and UDP
	// together 0.7 percent of a processor, 24 s an hour. The kernel can tell of closed sockets
	// (SKNLGRP_INET_TCP_DESTROY), but not of new listeners, and only of all
	// connections: each one would pay.
	autoPeriod = 80 * time.Millisecond

	// autoRetry is how long a port that could not be published is left alone.
	// Somebody else has it, mostly for good. It is also how long nobody looks
	// who listens after that failed scanTries times in a row.
	autoRetry = 5 * time.Second

	// scanTries is how many scans in a row may fail before anybody is told.
	scanTries = 8
)

// An AutoConfig is an automatic rule: it says which ports are published while
// somebody listens on them. It opens no port itself; each port is a rule of its
// own (Entry.By), as long as somebody listens. A port that the Table has on the
// same side already, for the other direction, is ours and not somebody's; one
// that cannot be bound is left out quietly, and tried again later. A rule that names
// a port takes it over, see Table.Add.
type AutoConfig struct {
	// Direction is Inbound for ports of the guest that shall be reached from
	// the host, Outbound for ports of the host's loopback that shall be
	// reached from the guest's.
	Direction Direction

	// Proto is flow.TCP or flow.UDP.
	Proto flow.Proto

	// Listen, Local, Device, Source, Loopback and Freebind are those of the
	// rules, see Rule.
	Listen   netip.Addr
	Local    bool
	Source   SourceMode
	Device   string
	Loopback bool
	Freebind bool

	// Allow are the ports that may be published. Zero allows none. For UDP it
	// should leave out the ephemeral ports: nobody can tell a server there from
	// a client.
	Allow policy.Ports

	// Period is how often the ports are listed at least; 0 means 80 ms.
	Period time.Duration
}

// Rule returns the rule of a port; with port 0 it is what the rules of all ports
// have in common.
func (c *AutoConfig) Rule(port uint16) Rule {
	return Rule{
		Direction: c.Direction, Proto: c.Proto, Listen: netip.AddrPortFrom(c.Listen, port),
		Local: c.Local, Source: c.Source, Device: c.Device, Loopback: c.Loopback, Freebind: c.Freebind,
	}
}

// A side says which sockets are listed: whose, and of which protocol.
type side struct {
	of    Direction
	proto flow.Proto
}

// side returns what a rule follows.
func (c *AutoConfig) side() side { return side{c.Direction, c.Proto} }

// An auto is an automatic rule that lives.
type auto struct {
	AutoConfig
	have  map[uint16]int       // id of the rule by port
	retry map[uint16]time.Time // when to try a port that failed again
	told  bool                 // that its ports cannot be listed
}

// AddAuto adds an automatic rule, whose ports are published as long as Follow
// runs, and returns its id. Remove removes it and the rules of its ports.
func (t *Table) AddAuto(ctx context.Context, c AutoConfig) (id int, err error) {
	r := c.Rule(0)
	if err := r.check(); err != nil {
		return 0, err
	}
	t.scanning.Lock()
	defer t.scanning.Unlock()
	if _, err := t.autos.open(ctx, c.Direction); err != nil {
		return 0, fmt.Errorf("publish what %s listens on: %w", follows(c.Direction), err)
	}
	id, err = t.insert(Entry{Rule: r, Follows: true, Allow: c.Allow, State: StateFollowing}, nil)
	if err != nil {
		t.autos.tidy()
		return 0, err
	}
	t.autos.rules[id] = &auto{AutoConfig: c, have: make(map[uint16]int), retry: make(map[uint16]time.Time)}
	select {
	case t.autos.added <- struct{}{}:
	default: // it is known
	}
	return id, nil
}

// follows names the side on which others listen.
func follows(d Direction) string {
	if d == Outbound {
		return "the host"
	}
	return "the guest"
}

// autos are the automatic rules of a Table. They are guarded by Table.scanning.
type autos struct {
	diag     func(context.Context, Direction) (*os.File, error)
	rules    map[int]*auto // by id
	scanners [2]*Scanner   // by direction, nil if there is none yet
	failures map[side]failure
	added    chan struct{} // receives when there is a new rule
	scan     func(*Scanner, flow.Proto) ([]Open, error)
}

// A failure is what is known of a side whose sockets could not be listed last time.
type failure struct {
	scans int       // that failed in a row
	again time.Time // when to try again; zero: at the next look
}

func newAutos(diag func(context.Context, Direction) (*os.File, error)) autos {
	return autos{
		diag: diag, rules: make(map[int]*auto), failures: make(map[side]failure),
		added: make(chan struct{}, 1), scan: (*Scanner).Scan,
	}
}

// errNoDiag says that the Table was made without Diag.
var errNoDiag = errors.New("nobody can tell who listens")

// open returns what lists the sockets of a direction's sides.
func (a *autos) open(ctx context.Context, d Direction) (*Scanner, error) {
	if a.scanners[d] != nil {
		return a.scanners[d], nil
	}
	if a.diag == nil {
		return nil, errNoDiag
	}
	f, err := a.diag(ctx, d)
	if err != nil {
		return nil, err
	}
	a.scanners[d] = NewScanner(f)
	return a.scanners[d], nil
}

// close closes what lists the sockets of a direction's sides, if there is something.
func (a *autos) close(d Direction) {
	if s := a.scanners[d]; s != nil {
		s.Close()
		a.scanners[d] = nil
	}
}

// tidy closes what lists the sockets of sides that no rule follows, and forgets
// what is known of these.
func (a *autos) tidy() {
	var used [2]bool
	sides := make(map[side]bool)
	for _, r := range a.rules {
		used[r.Direction] = true
		sides[r.side()] = true
	}
	for d := range used {
		if !used[d] {
			a.close(Direction(d))
		}
	}
	maps.DeleteFunc(a.failures, func(s side, _ failure) bool { return !sides[s] })
}

// list lists the sockets of a side. After scanTries failures in a row the side is
// left alone for a while. It is begun anew then, if nothing else can be listed in its
// direction either: a kernel may know one protocol only.
func (a *autos) list(ctx context.Context, s side) ([]Open, error) {
	failed := a.failures[s]
	if time.Now().Before(failed.again) {
		return nil, errLater
	}
	scanner, err := a.open(ctx, s.of)
	var list []Open
	if err == nil {
		list, err = a.scan(scanner, s.proto)
	}
	if err == nil {
		delete(a.failures, s)
		return list, nil
	}
	if failed.scans++; failed.scans < scanTries {
		a.failures[s] = failed
		return nil, errLater
	}
	failed.again = time.Now().Add(autoRetry)
	a.failures[s] = failed
	if a.isLost(s.of) {
		a.close(s.of)
	}
	return nil, err
}

// isLost tells whether nothing that is followed in a direction can be listed.
func (a *autos) isLost(d Direction) bool {
	for _, r := range a.rules {
		if r.Direction == d && a.failures[r.side()].scans < scanTries {
			return false
		}
	}
	return true
}

// errLater says that nobody knows who listens, for the moment.
var errLater = errors.New("later")

// period returns how long to wait until the next look, 0 for ever.
func (a *autos) period() (shortest time.Duration) {
	for _, r := range a.rules {
		if p := cmp.Or(r.Period, autoPeriod); shortest == 0 || p < shortest {
			shortest = p
		}
	}
	return shortest
}

// Follow keeps the rules of automatic rules equal to what somebody listens on
// until ctx ends; it is called once. Without such rules it costs nothing. Rules
// that exist at the end stay.
func (t *Table) Follow(ctx context.Context) {
	defer t.unfollow()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-t.autos.added:
		case <-ctx.Done():
			return
		}
		if period := t.follow(ctx); period > 0 {
			timer.Reset(period)
		}
	}
}

// unfollow ends all automatic rules; those of ports stay.
func (t *Table) unfollow() {
	t.scanning.Lock()
	defer t.scanning.Unlock()
	clear(t.autos.rules)
	t.autos.tidy()
}

// follow looks once, for all rules together: what costs is to be woken. It returns
// when to look again, 0 for when there is another rule.
func (t *Table) follow(ctx context.Context) time.Duration {
	t.scanning.Lock()
	defer t.scanning.Unlock()
	type answer struct {
		list []Open
		err  error
	}
	answers := make(map[side]answer)
	for id, a := range t.autos.rules {
		s := a.side()
		heard, ok := answers[s]
		if !ok {
			heard.list, heard.err = t.autos.list(ctx, s)
			answers[s] = heard
		}
		switch {
		case heard.err == nil:
			t.mark(id, a, nil)
			t.step(ctx, id, a, heard.list)
		case ctx.Err() == nil && !errors.Is(heard.err, errLater):
			t.mark(id, a, heard.err)
		}
	}
	return t.autos.period()
}

// mark notes whether the ports of an automatic rule can be listed.
func (t *Table) mark(id int, a *auto, err error) {
	if a.told == (err != nil) {
		return
	}
	a.told = err != nil
	t.mu.Lock()
	old := t.entries[id]
	t.mu.Unlock()
	if old == nil {
		return
	}
	e := *old
	if e.Err = ""; err != nil {
		e.Err = err.Error()
		t.cfg.Log.Warn("automatic ports stay as they are", "rule", e.Spec(), "error", err)
	}
	t.replace(old, &e)
}

// step makes the ports of an automatic rule those that are listened on.
func (t *Table) step(ctx context.Context, id int, a *auto, list []Open) {
	want := make(map[uint16]bool)
	for _, o := range list {
		if t.wants(a, o) {
			want[o.Port] = true
		}
	}
	for port, id := range a.have {
		if want[port] {
			continue
		}
		delete(a.have, port)
		if err := t.removeRule(id, ExistingStay); err != nil && !errors.Is(err, ErrNoRule) { // somebody has removed it
			t.cfg.Log.Debug("automatic port not removed", "port", port, "error", err)
		}
	}
	for port := range a.retry {
		if !want[port] {
			delete(a.retry, port)
		}
	}
	for port := range want {
		t.publishAuto(ctx, id, a, port)
	}
}

// wants tells whether an open port shall have a rule.
func (t *Table) wants(a *auto, o Open) bool {
	if !a.Allow.Contains(o.Port) || !a.reaches(o.Addr) {
		return false
	}
	other := Outbound
	if a.Direction == Outbound {
		other = Inbound
	}
	return !t.listens(other, a.Proto, o.Port)
}

// reaches tells whether a rule leads to a socket at address.
func (c *AutoConfig) reaches(address netip.Addr) bool {
	switch {
	case address.IsUnspecified():
		return true
	case c.Direction == Outbound:
		return address.IsLoopback()
	}
	return c.Loopback || !address.IsLoopback()
}

// publishAuto adds the rule of a port unless there is one, or there was one
// recently that failed. One that somebody has removed does not come back as long
// as the same listener is there.
func (t *Table) publishAuto(ctx context.Context, by int, a *auto, port uint16) {
	r := a.Rule(port)
	if _, ok := a.have[port]; ok || time.Now().Before(a.retry[port]) || t.taken(r) {
		return
	}
	id, err := t.add(ctx, r, by)
	if err != nil {
		a.retry[port] = time.Now().Add(autoRetry)
		t.cfg.Log.Debug("automatic port not published", "port", port, "error", err)
		return
	}
	a.have[port] = id
	delete(a.retry, port)
}

// removeAuto removes an automatic rule with the rules of its ports. It returns
// false if id is none.
func (t *Table) removeAuto(id int, existing Existing) (found bool, err error) {
	t.scanning.Lock()
	defer t.scanning.Unlock()
	if t.autos.rules[id] == nil {
		return false, nil
	}
	delete(t.autos.rules, id)
	t.autos.tidy()
	if e := t.leave(id); e != nil {
		t.cfg.Log.Debug("rule removed", "id", id, "rule", e.Spec())
	}
	var errs []error
	for _, e := range t.all() {
		if e.By != id {
			continue
		}
		if err := t.removeRule(e.ID, existing); err != nil && !errors.Is(err, ErrNoRule) {
			errs = append(errs, err)
		}
	}
	return true, errors.Join(errs...)
}

// isAuto tells whether a rule is automatic.
func (t *Table) isAuto(id int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	return e != nil && e.Follows
}
