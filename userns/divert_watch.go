package userns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
	"taproot/userns/nft"
)

// A lookout are two netlink sockets that collect changes of a namespace.
type lookout struct {
	routing *os.File // links and routing rules
	rules   *os.File // nf_tables
}

// subscribe begins to collect.
func (l *lookout) subscribe() error {
	for _, f := range []*os.File{l.routing, l.rules} {
		// The kernel does not tell a socket without an address of its own.
		if err := unix.Bind(int(f.Fd()), &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return os.NewSyscallError("bind netlink", err)
		}
	}
	for _, g := range []struct {
		file  *os.File
		group int
	}{
		{l.routing, unix.RTNLGRP_LINK}, {l.routing, unix.RTNLGRP_IPV4_RULE}, {l.routing, unix.RTNLGRP_IPV6_RULE},
		{l.rules, unix.NFNLGRP_NFTABLES},
	} {
		if err := unix.SetsockoptInt(int(g.file.Fd()), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g.group); err != nil {
			return fmt.Errorf("netlink group %d: %w", g.group, err)
		}
	}
	return nil
}

// close may be called of one that was never made.
func (l *lookout) close() {
	closeFile(l.routing)
	closeFile(l.rules)
}

// Wait returns nil when something of the diversion was changed or removed by
// somebody else: then Restore is what helps, and connections that are diverted
// may have been reset meanwhile. Otherwise it returns why it cannot tell, ctx's
// error for one. It has no timer; of several calls at once, one gets the news.
//
// Meanwhile it makes what nested networks need, when there may be some for the
// first time.
//
// Sysctls are not watched. That they are wrong shows in what is put back and
// never comes to a listener.
func (d *Diversion) Wait(ctx context.Context) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.close()
	for _, f := range []*os.File{d.lookout.routing, d.lookout.rules} {
		if err := w.add(int(f.Fd()), unix.EPOLLIN); err != nil {
			return err
		}
	}
	return w.until(ctx, d.changed)
}

// changed takes the news and tells whether something of ours is missing. Where
// there may be nested networks from now on, it makes what they need.
func (d *Diversion) changed() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return false, os.ErrClosed
	}
	routing, err := take(d.lookout.routing, d.disturbs)
	if err != nil || routing {
		return routing, err
	}
	// Most of these are our own. The rules themselves tell.
	news, err := take(d.lookout.rules, func(netlink.Message) bool { return true })
	if err != nil {
		return false, err
	}
	if news {
		if whole, err := d.hasRules(); err != nil || !whole {
			return !whole, err
		}
	}
	return d.crowd() != nil, nil // Restore will tell why
}

// take takes all messages that wait in a socket and tells whether one of them
// matters. That some were lost matters.
func take(f *os.File, matters func(netlink.Message) bool) (bool, error) {
	found := false
	b := make([]byte, 1<<14) // more than the kernel puts in one packet
	for {
		n, _, err := unix.Recvfrom(int(f.Fd()), b, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return found, nil
		case err == unix.ENOBUFS:
			found = true
			continue
		case err != nil:
			return false, os.NewSyscallError("recvfrom", err)
		}
		messages, err := parseMessages(b[:n:n])
		if err != nil {
			return false, err
		}
		for _, m := range messages {
			found = matters(m) || found
		}
	}
}

// disturbs tells whether a message says that one of our routing rules was
// removed, or that a device is up again, which has lost its routes while it was
// down.
//
// +checklocks:d.mu
func (d *Diversion) disturbs(m netlink.Message) bool {
	switch {
	case m.Header.Type == unix.RTM_DELRULE && len(m.Data) >= unix.SizeofRtMsg:
		a, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofRtMsg:])
		for err == nil && a.Next() {
			if a.Type() == unix.FRA_PRIORITY {
				p := a.Uint32()
				return p == mark.Preference || p == mark.Preference+1
			}
		}
	case m.Header.Type == unix.RTM_NEWLINK && len(m.Data) >= unix.SizeofIfInfomsg:
		link, up := linkState(m)
		if link != d.link && link != loopbackIndex {
			return false // crowd looks for such
		}
		was := d.down[link]
		d.down[link] = !up
		return up && was
	}
	return false
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

// hasAnyRules tells whether one of our tables has rules. What goes wrong does so
// again when rules are made, and is told then.
//
// +checklocks:d.mu
func (d *Diversion) hasAnyRules() bool {
	for _, t := range d.tables() {
		if n, err := d.rules.Count(&t); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// Restore makes what is missing again, and the tables of nf_tables anew in any
// case. The listeners stay the same, and connections go on if nothing of theirs
// was lost meanwhile.
func (d *Diversion) Restore(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.install(); err != nil {
		return fmt.Errorf("divert TCP of %s: %w", d.want.Interface, err)
	}
	return nil
}

// Suspend removes the rules until Restore makes them again: connections take no
// notice of us, and those that are diverted do not survive it. Connection
// tracking ends with it if nobody else in the namespace uses it.
func (d *Diversion) Suspend() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return os.ErrClosed
	}
	return d.rules.Remove(d.tables())
}

// Tracked returns how many connections the namespace's connection tracking knows
// and how many it can. At the limit it drops what opens a new one, if it finds no
// old one to give up, whether that is to be diverted or not; Suspend helps then,
// unless the guest has rules of its own that track.
//
// Only connections that live count: what is half open, or has ended and is kept
// for a while, makes room. So it takes a guest with as many connections, those
// within itself included.
func (d *Diversion) Tracked() (now, limit int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return 0, 0, os.ErrClosed
	}
	if d.tracking == nil {
		return 0, 0, fmt.Errorf("%s: %w", trackingPath, fs.ErrNotExist)
	}
	for name, value := range map[string]*int{"nf_conntrack_count": &now, "nf_conntrack_max": &limit} {
		text, err := readAt(d.tracking, name)
		if err == nil {
			*value, err = strconv.Atoi(text)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read %s/%s: %w", trackingPath, name, err)
		}
	}
	return now, limit, nil
}

// Remove removes all that Divert has made but the listeners, which are the
// caller's, and resets the sysctls that are still as it left them. Connections
// that are diverted do not survive it. Wait must have returned before.
func (d *Diversion) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed {
		return nil
	}
	d.removed = true
	var errs []error
	if d.link != 0 { // or nothing was made
		errs = append(errs, d.unmake(d.routes, d.rules), d.resetSysctls())
	}
	if d.executor != nil {
		d.executor.end()
	}
	d.close()
	return errors.Join(errs...)
}

// unmake removes, by these, all but sysctls.
//
// +checklocks:d.mu
func (d *Diversion) unmake(routes *rtnl, rules *nft.Conn) error {
	errs := []error{rules.Remove(d.tables())}
	for _, s := range d.sides {
		errs = append(errs, d.unroute(routes, s))
	}
	return errors.Join(errs...)
}

// close closes all but the listeners.
func (d *Diversion) close() {
	if d.routes != nil {
		d.routes.close()
	}
	for _, f := range d.conf {
		f.Close()
	}
	closeFile(d.tracking)
	closeFile(d.ruleSocket)
	d.lookout.close()
}
