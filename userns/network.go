package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// network brings the loopback and the device up and returns the device.
func (s *stage) network() (device *os.File, report json.RawMessage, err error) {
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
	s.warn(setSysctl("net/ipv4/ping_group_range", s.order.PingRange))
	setup := &s.order.Setup
	device, report, err = s.open(setup.Interface, setup.Device)
	if err != nil {
		return nil, nil, err
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
	for _, p := range setup.Addresses {
		if err := h.AddrAdd(link, address(p)); err != nil {
			return fmt.Errorf("address %v: %w", p, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, gateway := range setup.Gateways {
		if err := h.RouteAdd(defaultRoute(link, gateway)); err != nil {
			return fmt.Errorf("default route via %v: %w", gateway, err)
		}
	}
	return nil
}

// sysctls sets how the device does IPv6. All addresses in the guest's network
// are known, so none is probed for (RFC 4862 §5.4) and all are usable at once,
// and what routers announce is not taken: the routes are set.
func (s *stage) sysctls(setup *Setup) {
	conf := "net/ipv6/conf/" + setup.Interface + "/"
	if !hasIPv6(setup.Addresses) {
		err := setSysctl(conf+"disable_ipv6", "1")
		if !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 is fine
			s.warn(err)
		}
		return
	}
	for _, v := range []struct{ name, value string }{
		{"disable_ipv6", "0"},
		{"accept_ra", "0"},
		{"autoconf", "0"},
		{"accept_dad", "0"},
		{"dad_transmits", "0"},
	} {
		s.warn(setSysctl(conf+v.name, v.value))
	}
}

func hasIPv6(prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
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

func defaultRoute(link netlink.Link, gateway netip.Addr) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst: &net.IPNet{
			IP:   make(net.IP, gateway.BitLen()/8),
			Mask: net.CIDRMask(0, gateway.BitLen()),
		},
		Gw: gateway.AsSlice(),
	}
}

// setSysctl sets a sysctl, written as a path since an interface's name may have
// dots in it.
func setSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+name, []byte(value), 0)
}
