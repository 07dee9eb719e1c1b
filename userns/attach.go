package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Attach sets up the network of the namespace, and returns the file of the
// device, which is the caller's. Warnings are what could not be done and is not
// essential. Addresses and routes that are there already stay. What is done
// when an error ends it, stays done.
//
// Nothing of ours runs inside but, for half a millisecond, the child that opens
// what is needed; ctx can only end that.
//
// Of the setup, ResolvConf and Hosts are not used: the mounts belong to whoever
// made the namespace. Without an Interface the device is nil.
//
// An error with a remedy implements interface{ Hint() string }.
func (n *Namespace) Attach(ctx context.Context, s Setup) (device *os.File, warnings []string, err error) {
	driver := ""
	if s.Interface != "" {
		if s.Device == nil {
			return nil, nil, errors.New("setup: device: none for " + s.Interface)
		}
		driver = s.Device.Path()
	}
	w, err := n.network(ctx, driver)
	if err != nil {
		return nil, nil, n.unreachable(ctx, s.Device, err)
	}
	defer w.close()
	if err := w.setUp(&s); err != nil {
		return nil, nil, withHint(err)
	}
	device, w.driver = w.driver, nil
	return device, w.warnings, nil
}

// Change turns the addresses and routes of a device that Attach has set up by
// before into those of after, as far as they differ. Nothing else of the device
// is touched, and what somebody else has added stays.
func (n *Namespace) Change(ctx context.Context, before, after Setup) error {
	w, err := n.network(ctx, "")
	if err != nil {
		return n.unreachable(ctx, nil, err)
	}
	defer w.close()
	if err := w.change(&before, &after); err != nil {
		return withHint(fmt.Errorf("%s: %w", after.Interface, err))
	}
	return nil
}

// unreachable explains why there is no network.
func (n *Namespace) unreachable(ctx context.Context, device Device, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var t *trouble
	switch {
	case !errors.As(err, &t):
		return err
	case t.step == stepOpen && device != nil && t.index == 0: // the driver comes first
		return withHint(device.Refused(t.errno))
	}
	return n.explain(err)
}
