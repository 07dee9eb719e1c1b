package userns

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Change has a stage turn the addresses and routes of a device that Attach has
// set up by before into those of after, as far as they differ. Nothing else of
// the device is touched, and what somebody else has added stays.
func (n *Namespace) Change(ctx context.Context, before, after Setup) error {
	t := newThread()
	defer t.stop()
	w, stage, err := n.startStage(t)
	if err != nil {
		return err
	}
	defer w.close()
	defer stage.end()
	before.ResolvConf, before.Hosts, after.ResolvConf, after.Hosts = nil, nil, nil, nil
	if _, _, err := w.order(ctx, stage, &order{Before: &before, Setup: after}); err != nil {
		return n.explain(err)
	}
	return nil
}

// change turns what before says of the device into what setup says.
func (s *stage) change(before, setup *Setup) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(setup.Interface)
	if err != nil {
		return fmt.Errorf("%s: %w", setup.Interface, err)
	}
	routes := setup.routes()
	for _, r := range before.routes() {
		if slices.Contains(routes, r) {
			continue
		}
		if err := h.RouteDel(r.netlink(link.Attrs().Index)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("%s: remove %v: %w", setup.Interface, r, err)
		}
	}
	for _, p := range before.Addresses {
		if slices.Contains(setup.Addresses, p) {
			continue
		}
		if err := h.AddrDel(link, address(p)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("%s: remove address %v: %w", setup.Interface, p, err)
		}
	}
	if setup.hasIPv6() && !before.hasIPv6() {
		s.sysctls(setup) // it was off
	}
	// All of them, not only the new ones: an address may take others of its
	// network with it, and routes too.
	if err := s.place(h, link, setup); err != nil {
		return fmt.Errorf("%s: %w", setup.Interface, err)
	}
	return nil
}
