package userns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// confPath has the sysctls of devices for IPv6.
const confPath = "/proc/sys/net/ipv6/conf"

// A network is the network of a namespace that we are not in, within reach. What
// was opened inside stays there: the kernel lets the owner of the user namespace
// do with it from outside what a process inside could do.
type network struct {
	routes   *rtnl
	driver   *os.File // makes the device; nil if there is to be none
	conf     *os.File // confPath; nil in a kernel without IPv6
	warnings []string
}

// network reaches into the namespace. driver is the path of the device's driver;
// "" is none.
func (n *Namespace) network(ctx context.Context, driver string) (*network, error) {
	var files []file
	if driver != "" {
		files = append(files, file{driver, unix.O_RDWR})
	}
	if exists(confPath) {
		files = append(files, file{confPath, unix.O_PATH | unix.O_DIRECTORY})
	}
	made, err := n.make(ctx, files, []Socket{{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_ROUTE}})
	if err != nil {
		return nil, err
	}
	w := &network{}
	for i, f := range files {
		if f.path == confPath {
			w.conf = made[i]
		} else {
			w.driver = made[i]
		}
	}
	if w.routes, err = newRTNL(made[len(files)]); err != nil {
		w.close()
		return nil, fmt.Errorf("%v: netlink: %w", n.target, err)
	}
	return w, nil
}

// close releases all that was not taken.
func (w *network) close() {
	if w.routes != nil {
		w.routes.close()
	}
	closeFile(w.driver)
	closeFile(w.conf)
}

// setUp brings the loopback and the device up, as far as the setup wants them.
func (w *network) setUp(setup *Setup) error {
	if !setup.Bare {
		lo, err := w.routes.link("lo")
		if err != nil {
			return fmt.Errorf("lo: %w", err)
		}
		if err := w.routes.up(lo); err != nil {
			return fmt.Errorf("lo: set up: %w", err)
		}
	}
	if setup.Interface == "" {
		return nil
	}
	if err := setup.Device.Attach(w.driver, setup.Interface); err != nil {
		return err
	}
	if setup.Bare || setup.Down {
		return nil
	}
	if err := w.configure(setup); err != nil {
		return fmt.Errorf("%s: %w", setup.Interface, err)
	}
	return nil
}

// configure sets the device up: first what decides how it comes up, then up,
// then what only a device that is up can have.
func (w *network) configure(setup *Setup) error {
	link, err := w.routes.link(setup.Interface)
	if err != nil {
		return err
	}
	w.sysctls(setup)
	if setup.MTU != 0 {
		if err := w.routes.setMTU(link, setup.MTU); err != nil {
			return fmt.Errorf("mtu %d: %w", setup.MTU, err)
		}
	}
	if setup.MAC != nil {
		if err := w.routes.setMAC(link, setup.MAC); err != nil {
			return fmt.Errorf("mac %v: %w", setup.MAC, err)
		}
	}
	return w.place(link, setup)
}

// place gives the device its addresses, brings it up and sets its routes. What
// is there already stays.
func (w *network) place(link int32, setup *Setup) error {
	for _, p := range setup.Addresses {
		if err := w.routes.addAddress(link, p); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %v: %w", p, err)
		}
	}
	if err := w.routes.up(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, r := range setup.routes() {
		if err := w.addRoute(link, r); err != nil {
			return fmt.Errorf("%v: %w", r, err)
		}
	}
	return nil
}

// addRoute adds a route, unless the same one is there.
func (w *network) addRoute(link int32, r Route) error {
	err := w.routes.addRoute(link, r)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	same, e := w.routes.hasRoute(link, r)
	switch {
	case e != nil:
		return e
	case !same:
		return err
	}
	return nil
}

// change turns what before says of the device into what setup says.
func (w *network) change(before, setup *Setup) error {
	link, err := w.routes.link(setup.Interface)
	if err != nil {
		return err
	}
	routes := setup.routes()
	for _, r := range before.routes() {
		if slices.Contains(routes, r) {
			continue
		}
		if err := w.routes.deleteRoute(link, r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove %v: %w", r, err)
		}
	}
	for _, p := range before.Addresses {
		if slices.Contains(setup.Addresses, p) {
			continue
		}
		if err := w.routes.deleteAddress(link, p); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %v: %w", p, err)
		}
	}
	if setup.hasIPv6() && !before.hasIPv6() {
		w.sysctls(setup) // it was off
	}
	// All of them, not only the new ones: an address may take others of its
	// network with it, and routes too.
	return w.place(link, setup)
}

// sysctls sets how the device does IPv6. What a kernel does not have is no loss.
func (w *network) sysctls(setup *Setup) {
	if w.conf == nil {
		return
	}
	for _, v := range setup.ipv6() {
		name := setup.Interface + "/" + v.name
		err := writeAt(int(w.conf.Fd()), name, v.value)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.warnings = append(w.warnings, fmt.Sprintf("set %s/%s: %v", confPath, name, err))
		}
	}
}

// writeAt writes a sysctl below an open directory of a namespace, which must not
// be the one above: the kernel leads from there to the caller's own.
func writeAt(dir int, name, value string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

// A sysctl is one of the device's for IPv6.
type sysctl struct{ name, value string }

// ipv6 returns the device's sysctls. All addresses in the guest's network are
// known, so none is probed for (RFC 4862 section 5.4) and all are usable at once.
func (setup *Setup) ipv6() []sysctl {
	noProbes := []sysctl{{"accept_dad", "0"}, {"dad_transmits", "0"}}
	switch {
	case setup.AcceptRA:
		return append(noProbes,
			sysctl{"autoconf", "1"},
			// Even if the guest forwards packets, as one with containers does.
			sysctl{"accept_ra", "2"},
			// Seconds until the kernel asks; the default is one.
			sysctl{"router_solicitation_delay", "0"},
			sysctl{"disable_ipv6", "0"},
		)
	case setup.hasIPv6():
		// What routers announce is not taken: the routes are set.
		return append(noProbes, sysctl{"autoconf", "0"}, sysctl{"accept_ra", "0"}, sysctl{"disable_ipv6", "0"})
	}
	return []sysctl{{"disable_ipv6", "1"}}
}

// hasIPv6 tells whether the device has addresses or routes of IPv6; a link-local
// address the kernel makes itself.
func (setup *Setup) hasIPv6() bool {
	return slices.ContainsFunc(setup.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) ||
		slices.ContainsFunc(setup.Routes, func(r Route) bool { return r.Destination.Addr().Is6() })
}
