package slirp

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"taproot/cmd/internal/caller"
	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/userns"
)

// config returns the network that slirp4netns gives: its addresses, open to
// everything that the host reaches.
func (o *options) config() engine.Config {
	cfg := engine.Config{
		Plan: plan.Slirp{
			Interface: o.name,
			MTU:       o.mtu,
			MAC:       o.mac,
			Net4:      o.network,
			IPv6:      o.ipv6,
		},
		DNS:            engine.DNS{Off: o.disableDNS},
		Announce:       engine.Announce{DNS: !o.disableDNS, Search: true},
		AllowHost:      policy.AllPorts(),
		AllowLinkLocal: true,
		Denied:         nat.NetUnreachable,
		Bind:           nat.Bind{Addr4: o.outbound, Addr6: o.outbound6},
		Shortcut:       o.shortcut,
		Sandbox:        engine.Sandbox{Files: o.sandbox, Calls: o.seccomp},
	}
	if !o.disableDNS {
		cfg.DNS.Ports = policy.AllPorts()
	}
	if !o.disableLoopback {
		cfg.HostLoopback = policy.AllPorts()
	}
	return cfg
}

// attachment returns what the network is for. Its Device, if it has one, must
// be closed.
func (p *program) attachment(ctx context.Context, o *options, device caller.Descriptor) (a engine.Attachment, err error) {
	a = engine.Attachment{Bare: !o.configure, Follow: userns.FollowHolders}
	switch {
	case o.targetType == "bess":
		a.Device, err = p.acceptBess(ctx, o.path)
	case o.netnsType == "tapfd":
		a.Device, err = device.File()
	case o.netnsType == "pid":
		a.Target = userns.Target{PID: o.pid, UserNS: o.usernsPath}
	default:
		a.Target = userns.Target{NetNS: o.path, UserNS: o.usernsPath}
	}
	return a, err
}

// acceptBess waits at path for whoever is the other end of the network: each
// packet of that connection is a frame.
func (p *program) acceptBess(ctx context.Context, path string) (*os.File, error) {
	if len(path) > maxAPI {
		return nil, fmt.Errorf("bess socket %s: longer than %d bytes", path, maxAPI)
	}
	if filepath.IsLocal(path) {
		path = "./" + path // package net takes "@x" for an abstract name
	}
	// Not os.Remove, which takes empty directories too.
	if err := syscall.Unlink(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("bess socket: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("bess socket: %w", err)
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	fmt.Fprintf(p.err, "Waiting for connection to %s\n", path)
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("bess socket: %w", err)
	}
	defer c.Close()
	return c.File()
}
