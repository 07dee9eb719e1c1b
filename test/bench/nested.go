package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names and addresses of the network behind a guest, as a rootless container
// engine would make it.
const (
	bridgeName   = "bridge0"
	bridgePort   = "port0"
	bridgePrefix = "10.88.0.1/24"
	nestedPrefix = "10.88.0.2/24"
)

// nest has the guest make a network behind its own, and moves into it: what is
// measured from now on goes through the guest's bridge and masquerade.
func (t *turn) nest(ctx context.Context) error {
	return within(ctx, func(ctx context.Context) error {
		t.guests++
		token := strconv.Itoa(t.guests)
		args := NestArgs{MTU: t.mtu, Command: t.lab.ProgramArgs(roleGuest, t.socket.Addr().String(), token)}
		if err := t.guest.call(ctx, "Nest", args, &Nothing{}); err != nil {
			return err
		}
		nested, err := t.greet(ctx, token)
		if err != nil {
			return err
		}
		t.outer, t.guest = t.guest, nested
		return t.ready(ctx)
	})
}

// NestArgs describes a network behind a guest.
type NestArgs struct {
	MTU     int      // bytes, of the bridge and all that is on it
	Command []string // what runs in there
}

// Nest starts a command in a network namespace of its own, behind a bridge of
// the agent's, which forwards and masquerades. It ends with the agent.
func (a *Agent) Nest(args NestArgs, _ *Nothing) error {
	var network *os.File
	var command *process
	err := elsewhere(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		// By a descriptor: /proc may have other numbers than we.
		if network, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		nested := &launched{messages: new(tail)}
		command, err = nested.start(args.Command, files{attr: dies()})
		return err
	})
	if network != nil {
		defer network.Close()
	}
	if err != nil {
		return err
	}
	if err := attachBridge(network, args.MTU); err != nil {
		return errors.Join(err, command.end(0))
	}
	return nil
}

// attachBridge gives a network namespace a port of a new bridge in the calling
// one.
func attachBridge(network *os.File, mtu int) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = bridgeName, mtu
	bridge := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add %s: %w", bridgeName, err)
	}
	port, err := addVeth(bridgePort, network, mtu)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(port, bridge); err != nil {
		return fmt.Errorf("put %s into %s: %w", bridgePort, bridgeName, err)
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return fmt.Errorf("%s: up: %w", bridgePort, err)
	}
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		addMasquerade(netip.MustParsePrefix(bridgePrefix), bridgeName),
		configure(bridgeName, bridgePrefix, mtu),
		configureGuest(network, nestedPrefix, netip.MustParsePrefix(bridgePrefix).Addr(), mtu),
	)
}
