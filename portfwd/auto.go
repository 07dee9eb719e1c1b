package portfwd

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
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
	// Somebody else has it, mostly for good.
	autoRetry = 5 * time.Second

	// scanTries is how many scans in a row may fail.
	scanTries = 8
)

// An AutoConfig says which ports are published while somebody listens on them.
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

	// Table gets the rules.
	Table *Table

	// Period is how often the ports are listed at least; 0 means 80 ms.
	Period time.Duration

	// Log may be nil.
	Log *slog.Logger
}

// An Auto keeps rules equal to what somebody listens on. A port that this
// Table has on the same side already, for the other direction, is ours and not
// somebody's; one that cannot be bound is left out quietly, and tried again
// later.
type Auto struct {
	cfg     AutoConfig
	scanner *Scanner
	scan    func(flow.Proto) ([]Open, error) // the scanner's
	have    map[uint16]int                   // id of the rule by port
	retry   map[uint16]time.Time             // when to try a port that failed again
	failed  int                              // scans in a row
}

// NewAuto returns an Auto over a NETLINK_SOCK_DIAG socket of the side on which
// others listen: the guest's namespace for Inbound. It takes the socket over,
// and Follow closes it.
func NewAuto(cfg AutoConfig, diag *os.File) *Auto {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := NewScanner(diag)
	return &Auto{cfg: cfg, scanner: s, scan: s.Scan, have: make(map[uint16]int), retry: make(map[uint16]time.Time)}
}

// Close releases an Auto that is not given to Follow.
func (a *Auto) Close() error { return a.scanner.Close() }

// Follow has Autos follow their ports until ctx ends, together: what costs is to
// be woken. One whose ports cannot be listed is told to failed and left. Rules
// that exist stay.
func Follow(ctx context.Context, autos []*Auto, failed func(error)) {
	autos = slices.Clone(autos)
	defer func() {
		for _, a := range autos {
			a.scanner.Close()
		}
	}()
	period := time.Hour
	for _, a := range autos {
		period = min(period, cmp.Or(a.cfg.Period, autoPeriod))
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for len(autos) > 0 {
		autos = slices.DeleteFunc(autos, func(a *Auto) bool {
			err := a.try(ctx)
			if err == nil || ctx.Err() != nil {
				return false
			}
			a.scanner.Close()
			failed(fmt.Errorf("follow %v ports: %w", a.cfg.Direction, err))
			return true
		})
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// try scans once. It fails if it did scanTries times in a row.
func (a *Auto) try(ctx context.Context) error {
	err := a.step(ctx)
	if err == nil {
		a.failed = 0
		return nil
	}
	if a.failed++; a.failed < scanTries {
		return nil
	}
	return err
}

// step scans once. One Auto of a Table does so at a time, so that none sees a
// port that another has opened but not entered.
func (a *Auto) step(ctx context.Context) error {
	a.cfg.Table.scanning.Lock()
	defer a.cfg.Table.scanning.Unlock()
	list, err := a.scan(a.cfg.Proto)
	if err != nil {
		return err
	}
	want := make(map[uint16]bool)
	for _, o := range list {
		if a.wants(o) {
			want[o.Port] = true
		}
	}
	for port, id := range a.have {
		if !want[port] {
			delete(a.have, port)
			if err := a.cfg.Table.Remove(id); err != nil {
				a.cfg.Log.Debug("automatic port not removed", "port", port, "error", err)
			}
		}
	}
	for port := range a.retry {
		if !want[port] {
			delete(a.retry, port)
		}
	}
	for port := range want {
		a.publish(ctx, port)
	}
	return nil
}

// wants tells whether an open port shall have a rule.
func (a *Auto) wants(o Open) bool {
	if !a.cfg.Allow.Contains(o.Port) || !a.reaches(o.Addr) {
		return false
	}
	other := Outbound
	if a.cfg.Direction == Outbound {
		other = Inbound
	}
	return !a.cfg.Table.listens(other, a.cfg.Proto, o.Port)
}

// reaches tells whether a rule leads to a socket at address.
func (a *Auto) reaches(address netip.Addr) bool {
	switch {
	case address.IsUnspecified():
		return true
	case a.cfg.Direction == Outbound:
		return address.IsLoopback()
	}
	return a.cfg.Loopback || !address.IsLoopback()
}

// publish adds the rule of a port unless there is one, or there was one
// recently that failed.
func (a *Auto) publish(ctx context.Context, port uint16) {
	r := Rule{
		Direction: a.cfg.Direction, Proto: a.cfg.Proto, Listen: netip.AddrPortFrom(a.cfg.Listen, port),
		Local: a.cfg.Local, Source: a.cfg.Source, Device: a.cfg.Device, Loopback: a.cfg.Loopback, Freebind: a.cfg.Freebind,
	}
	if _, ok := a.have[port]; ok || time.Now().Before(a.retry[port]) || a.cfg.Table.taken(r) {
		return
	}
	id, err := a.cfg.Table.add(ctx, r, true)
	if err != nil {
		a.retry[port] = time.Now().Add(autoRetry)
		a.cfg.Log.Debug("automatic port not published", "port", port, "error", err)
		return
	}
	a.have[port] = id
	delete(a.retry, port)
}
