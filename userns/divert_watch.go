package userns

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"taproot/userns/nft"
)

// watched are two netlink sockets that tell of changes.
type watched struct {
	route *os.File // links and routing rules
	rules *os.File // nf_tables
}

// subscribe begins to collect changes.
func (w watched) subscribe() error {
	for _, g := range []struct {
		file  *os.File
		group int
	}{
		{w.route, unix.RTNLGRP_LINK}, {w.route, unix.RTNLGRP_IPV4_RULE}, {w.route, unix.RTNLGRP_IPV6_RULE},
		{w.rules, unix.NFNLGRP_NFTABLES},
	} {
		if err := unix.SetsockoptInt(int(g.file.Fd()), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g.group); err != nil {
			return fmt.Errorf("netlink group %d: %w", g.group, err)
		}
	}
	return nil
}

// Wait returns nil when something of the diversion was changed or removed by
// somebody else: then Restore is what helps, and connections that are diverted
// may have been reset. Otherwise it returns why it cannot tell, ctx's error for
// one. It has no timer.
func (d *Diversion) Wait(ctx context.Context) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.close()
	if err := errors.Join(w.add(int(d.watched.route.Fd()), unix.EPOLLIN), w.add(int(d.watched.rules.Fd()), unix.EPOLLIN)); err != nil {
		return err
	}
	return w.until(ctx, d.changed)
}

// changed takes the news and tells whether they are of us.
func (d *Diversion) changed() (bool, error) {
	d.watched.drain()
	intact, err := d.intact()
	return !intact, err
}

func (w watched) drain() {
	var b [4096]byte
	for _, f := range []*os.File{w.route, w.rules} {
		for {
			if _, _, err := unix.Recvfrom(int(f.Fd()), b[:], unix.MSG_DONTWAIT); err != nil && err != unix.EINTR && err != unix.ENOBUFS {
				break
			}
		}
	}
}

// intact tells whether all is there.
func (d *Diversion) intact() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return false, os.ErrClosed
	}
	return d.hasRules()
}

// hasRules tells whether our tables have as many rules as we made.
//
// +checklocks:d.mu
func (d *Diversion) hasRules() (bool, error) {
	for _, t := range d.tables() {
		n, err := d.rules.Count(&t)
		if err != nil || n != t.Count() {
			return false, err
		}
	}
	return true, nil
}

// Restore makes what is missing again. The listeners stay.
func (d *Diversion) Restore(ctx context.Context) error {
	if err := d.install(); err != nil {
		return fmt.Errorf("divert TCP of %s: %w", d.Interface, err)
	}
	return nil
}

// Remove removes all that Divert has made but the listeners, which are the
// caller's, and resets the sysctls. Connections that are diverted end with it.
func (d *Diversion) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return nil
	}
	d.removed = true
	var errs []error
	if d.rules != nil {
		errs = append(errs, d.rules.Remove(d.bare()))
	}
	if d.routes != nil {
		for _, s := range d.sides {
			errs = append(errs, d.unroute(s))
		}
		errs = append(errs, d.resetSysctls())
		d.routes.close()
	}
	for _, f := range d.conf {
		f.Close()
	}
	closeFiles(d.sockets)
	closeFile(d.watched.route)
	closeFile(d.watched.rules)
	return errors.Join(errs...)
}

// bare returns our tables without their chains.
func (d *Diversion) bare() []nft.Table {
	var tables []nft.Table
	for _, s := range d.sides {
		r := ruleset{family: s.family}
		t := r.table()
		t.Chains = nil
		tables = append(tables, t)
	}
	return tables
}
