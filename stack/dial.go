package stack

import (
	"context"
	"errors"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Dial connects to the guest. The guest sees source as its peer, whoever that
// is; with port 0 the stack takes a free one. Dial waits until the guest has
// answered, and leaves when ctx ends. The error is ctx's if it was cancelled,
// and otherwise a syscall.Errno:
//
//	ECONNREFUSED   nobody listens at destination
//	ETIMEDOUT      no answer to seven SYNs in two minutes, or before ctx's deadline
//	EHOSTUNREACH   nobody answers for destination on the link
//	EADDRINUSE     source and destination are connected already
//	EINVAL         the addresses are not of one family, or not of one host each
func (s *Stack) Dial(ctx context.Context, source, destination netip.AddrPort) (*Conn, error) {
	if !dialable(source.Addr(), destination.Addr()) || destination.Port() == 0 {
		return nil, syscall.EINVAL
	}
	if err := s.meet(ctx, destination.Addr()); err != nil {
		return nil, dialError(err)
	}
	protocol := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
	if destination.Addr().Is6() {
		protocol = ipv6.ProtocolNumber
	}
	c := &Conn{}
	var err tcpip.Error
	if c.ep, err = s.stack.NewEndpoint(tcp.ProtocolNumber, protocol, &c.queue); err != nil {
		return nil, toError(err)
	}
	if err := c.connect(ctx, source, destination); err != nil {
		c.Close()
		return nil, dialError(err)
	}
	s.memory.add(c)
	return c, nil
}

// dialable tells whether two addresses can have a connection.
func dialable(source, destination netip.Addr) bool {
	for _, a := range []netip.Addr{source, destination} {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() {
			return false
		}
	}
	return source.Is4() == destination.Is4()
}

// dialError puts the end of a deadline into the words of a network.
func dialError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return syscall.ETIMEDOUT
	}
	return err
}

// connect does the handshake.
func (c *Conn) connect(ctx context.Context, source, destination netip.AddrPort) error {
	// A port that was asked for may be in use for other destinations: kernels
	// give one to several of their clients.
	c.ep.SocketOptions().SetReuseAddress(source.Port() != 0)
	entry, answered := waiter.NewChannelEntry(anything)
	c.queue.EventRegister(&entry)
	defer c.queue.EventUnregister(&entry)
	if err := c.ep.Bind(fullAddress(source)); err != nil {
		return toError(err)
	}
	switch err := c.ep.Connect(fullAddress(destination)); err.(type) {
	case *tcpip.ErrConnectStarted:
	case *tcpip.ErrBadLocalAddress: // gVisor's word for a pair that is taken
		return syscall.EADDRINUSE
	default:
		return toError(err)
	}
	for {
		select {
		case <-answered:
		case <-ctx.Done():
			return ctx.Err()
		}
		switch state := tcp.EndpointState(c.ep.State()); state {
		case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		case tcp.StateError, tcp.StateClose:
			return c.hardError()
		default:
			return nil
		}
	}
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: toAddress(a.Addr()), Port: a.Port()}
}
