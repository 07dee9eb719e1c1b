package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network brings the loopback and the device up, as far as the setup wants
// them, and returns the device.
func (s *stage) network() (device *os.File, report json.RawMessage, err error) {
	setup := &s.order.Setup
	if setup.Bare {
		return s.open(setup.Interface, setup.Device)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return nil, nil, fmt.Errorf("lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return nil, nil, fmt.Errorf("lo: set up: %w", err)
	}
	if s.order.PingRange != "" {
		s.warn(setSysctl("net/ipv4/ping_group_range", s.order.PingRange))
	}
	if setup.Interface == "" {
		return nil, nil, nil
	}
	device, report, err = s.open(setup.Interface, setup.Device)
	if err != nil {
		return nil, nil, err
	}
	if setup.Down {
		return device, report, nil
	}
	if err := s.configure(h, setup); err != nil {
		device.Close()
		return nil, nil, fmt.Errorf("%s: %w", setup.Interface, err)
	}
	return device, report, nil
}

// configure sets the device up: first what decides how it comes up, then up,
// then what only a device that is up can have.
func (s *stage) configure(h *netlink.Handle, setup *Setup) error {
	link, err := h.LinkByName(setup.Interface)
	if err != nil {
		return err
	}
	s.sysctls(setup)
	if setup.MTU != 0 {
		if err := h.LinkSetMTU(link, setup.MTU); err != nil {
			return fmt.Errorf("mtu %d: %w", setup.MTU, err)
		}
	}
	if setup.MAC != nil {
		if err := h.LinkSetHardwareAddr(link, setup.MAC); err != nil {
			return fmt.Errorf("mac %v: %w", setup.MAC, err)
		}
	}
	return s.place(h, link, setup)
}

// place gives the device its addresses, brings it up and sets its routes. What
// is there already stays.
func (s *stage) place(h *netlink.Handle, link netlink.Link, setup *Setup) error {
	for _, p := range setup.Addresses {
		if err := h.AddrAdd(link, address(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %v: %w", p, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return addRoutes(h, link.Attrs().Index, setup.routes())
}

// A sysctl is one of the device's for IPv6.
type sysctl struct{ name, value string }

// sysctls sets how the device does IPv6. What a kernel does not have is no loss.
func (s *stage) sysctls(setup *Setup) {
	for _, v := range setup.ipv6() {
		err := setSysctl("net/ipv6/conf/"+setup.Interface+"/"+v.name, v.value)
		if !errors.Is(err, fs.ErrNotExist) {
			s.warn(err)
		}
	}
}

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

// address returns an address of a device; for IPv6 without duplicate address
// detection, which would hold it back for a second or two.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// setSysctl sets a sysctl, written as a path since an interface's name may have
// dots in it.
func setSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}
