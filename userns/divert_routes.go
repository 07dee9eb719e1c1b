package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"taproot/stack/shortcut/mark"
)

// routingRules returns the rules of a family, in their order.
func (d *Diversion) routingRules(family uint8) []routingRule {
	return []routingRule{
		{family: family, preference: mark.Preference, table: mark.RouteInside, marked: true},
		{family: family, preference: mark.Preference + 1, table: mark.RouteBound, oif: d.want.Interface},
	}
}

// tableRoutes returns the routes of our tables.
func (d *Diversion) tableRoutes(s *side) []tableRoute {
	return []tableRoute{
		{family: s.family, table: mark.RouteInside, link: loopbackIndex},
		{family: s.family, table: mark.RouteInside, link: d.link, metric: boundMetric},
		{family: s.family, table: mark.RouteBound, link: d.link, gateway: s.bound},
	}
}

// boundMetric is that of the route inside for sockets that are bound to the device:
// those of servers, whose answers to published ports' clients it leads to lo too.
const boundMetric = 1 << 20

// route makes what a family's packets are routed by. What is there stays.
func (d *Diversion) route(s *side) error {
	for _, t := range d.tableRoutes(s) {
		if t.link == d.link && d.without(s) {
			continue
		}
		if t.gateway.IsValid() {
			if err := d.routes.neighbour(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace, d.link, s.bound, d.want.Gateway); err != nil {
				return fmt.Errorf("neighbour %v: %w", s.bound, err)
			}
		}
		err := d.routes.tableRoute(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, t)
		if unless(err, unix.EEXIST) != nil {
			return fmt.Errorf("route of table %d: %w", t.table, err)
		}
	}
	for _, rule := range d.routingRules(s.family) {
		err := d.routes.routingRule(unix.RTM_NEWRULE, netlink.Create|netlink.Excl, rule)
		if unless(err, unix.EEXIST) != nil {
			return fmt.Errorf("routing rule to table %d: %w", rule.table, err)
		}
	}
	return nil
}

// unroute removes, by routes, what route has made, as far as it is there.
func (d *Diversion) unroute(routes *rtnl, s *side) error {
	var errs []error
	for _, rule := range d.routingRules(s.family) {
		err := routes.routingRule(unix.RTM_DELRULE, 0, rule)
		errs = append(errs, unless(err, unix.ENOENT, unix.ESRCH))
	}
	gone := []error{unix.ESRCH, unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.ENETDOWN}
	for _, t := range d.tableRoutes(s) {
		errs = append(errs, unless(routes.tableRoute(unix.RTM_DELROUTE, 0, t), gone...))
	}
	err := routes.neighbour(unix.RTM_DELNEIGH, 0, d.link, s.bound, nil)
	return errors.Join(append(errs, unless(err, gone...))...)
}

// without tells whether the device does not do this family now.
func (d *Diversion) without(s *side) bool {
	if s.family != unix.AF_INET6 {
		return false
	}
	off, err := readAt(d.conf[s.family], d.want.Interface+"/disable_ipv6")
	return err == nil && off == "1"
}

// A savedSysctl is one that was changed.
type savedSysctl struct{ name, before, after string }

// setSysctls lets SYNs of the guest's own addresses come in by the device
// (accept_local) whatever the device is that their source belongs to (rp_filter;
// of the values for the device and for all, the larger counts: 1 is strict and 2
// loose).
//
// +checklocks:d.mu
func (d *Diversion) setSysctls() error {
	conf := d.conf[unix.AF_INET]
	if conf == nil {
		return nil
	}
	own, all := d.want.Interface+"/", "all/"
	values := map[string]string{}
	for _, name := range []string{all + "accept_local", own + "accept_local", all + "rp_filter", own + "rp_filter"} {
		value, err := readAt(conf, name)
		if err != nil {
			return fmt.Errorf("read net/ipv4/conf/%s: %w", name, err)
		}
		values[name] = value
	}
	if values[all+"accept_local"] == "0" && values[own+"accept_local"] == "0" {
		if err := d.setSysctl(conf, own+"accept_local", "0", "1"); err != nil {
			return err
		}
	}
	if max(values[all+"rp_filter"], values[own+"rp_filter"]) == "1" {
		if err := d.setSysctl(conf, own+"rp_filter", values[own+"rp_filter"], "2"); err != nil {
			return err
		}
	}
	if d.nests() {
		d.options.nested = d.setEarlyDemux(conf) == nil
	}
	return nil
}

// setEarlyDemux keeps the kernel from looking for the socket of a segment before
// it looks for its way. It does not forward what belongs to a socket, and a SYN
// that uses the ports of a diverted connection again, from a nested network, would
// belong to the inner end of that, for a minute of TIME-WAIT. The sysctl is for
// both families.
//
// +checklocks:d.mu
func (d *Diversion) setEarlyDemux(conf *os.File) error {
	const name = "../tcp_early_demux"
	before, err := readAt(conf, name)
	if d.heir && before == "0" {
		before = "1" // the kernel's default, which whoever was killed has found
	}
	if err != nil || before == "0" {
		return err
	}
	return d.setSysctl(conf, name, before, "0")
}

// hintSysctls is the remedy for sysctls that may not be set.
const hintSysctls = "run without --shortcut=on; or, inside a container, start it with: --security-opt unmask=ALL"

// setSysctl sets a sysctl and remembers what it was, first of all.
//
// +checklocks:d.mu
func (d *Diversion) setSysctl(conf *os.File, name, before, after string) error {
	known := len(d.sysctls)
	if err := d.remember(savedSysctl{name, before, after}); err != nil {
		return err
	}
	if err := writeAt(int(conf.Fd()), name, after); err != nil {
		d.sysctls = d.sysctls[:known]
		err = fmt.Errorf("set %s to %s, which is %s: %w", path.Join("net/ipv4/conf", name), after, before, err)
		if errors.Is(err, unix.EROFS) {
			return &hinted{err, hintSysctls}
		}
		return err
	}
	return nil
}

// remember notes what a sysctl was before we changed it first.
//
// +checklocks:d.mu
func (d *Diversion) remember(s savedSysctl) error {
	if slices.ContainsFunc(d.sysctls, func(known savedSysctl) bool { return known.name == s.name }) {
		return nil
	}
	d.sysctls = append(d.sysctls, s)
	return d.bequeath()
}

// resetSysctls sets what was changed, and is still so, to what it was.
//
// +checklocks:d.mu
func (d *Diversion) resetSysctls() error {
	conf := d.conf[unix.AF_INET]
	var errs []error
	for _, s := range d.sysctls {
		now, err := readAt(conf, s.name)
		if err == nil && now == s.after {
			err = writeAt(int(conf.Fd()), s.name, s.before)
		}
		errs = append(errs, unless(err, fs.ErrNotExist))
	}
	d.sysctls = nil
	return errors.Join(errs...)
}

// readAt reads a sysctl below an open directory.
func readAt(dir *os.File, name string) (string, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var b [64]byte
	n, err := unix.Read(fd, b[:])
	return strings.TrimSpace(string(b[:max(n, 0)])), err
}
