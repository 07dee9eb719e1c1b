// Package stacktest is a guest for tests: a TCP/IP stack of its own at the
// other end of a wire of tap/taptest, with addresses that it may be given. The
// way through a gateway can be tested with it in one process.
package stacktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"taproot/stack/link"
	"taproot/tap"
)

// nic is the number of the guest's only interface.
const nic tcpip.NICID = 1

// A Guest is a program's view of its network. Its methods are safe for
// concurrent use.
type Guest struct {
	stack     *stack.Stack
	addresses []netip.Addr
	stop      context.CancelFunc
	wg        sync.WaitGroup
}

// Start returns a guest on device, which it takes over, with the addresses
// given and default routes. Close ends it.
func Start(device *tap.Device, addresses ...netip.Addr) (*Guest, error) {
	g := &Guest{addresses: addresses, stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})}
	end := link.New(link.Config{Device: device, MTU: 1500, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
	if err := g.stack.CreateNIC(nic, end); err != nil {
		return nil, fmt.Errorf("create interface: %v", err)
	}
	for _, a := range addresses {
		protocol, address := convert(a)
		if err := g.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol: protocol, AddressWithPrefix: address.WithPrefix(),
		}, stack.AddressProperties{}); err != nil {
			return nil, fmt.Errorf("add address %v: %v", a, err)
		}
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.wg.Go(func() { _ = end.Run(ctx) }) // fails only if the wire does, which the test sees
	return g, nil
}

// Close ends the guest without a word to the gateway, and waits for it.
func (g *Guest) Close() {
	g.stop()
	g.wg.Wait()
	g.stack.Close()
	for _, ep := range g.stack.CleanupEndpoints() {
		ep.Abort()
	}
	g.stack.Wait()
}

// A Conn is the guest's end of a TCP connection.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Dial connects to an address. What the gateway answers comes as
// ECONNREFUSED, EHOSTUNREACH or ENETUNREACH.
func (g *Guest) Dial(ctx context.Context, to netip.AddrPort) (Conn, error) {
	protocol, address := convert(to.Addr())
	from := tcpip.FullAddress{NIC: nic}
	for _, a := range g.addresses {
		if a.Is4() == to.Addr().Is4() {
			_, from.Addr = convert(a)
		}
	}
	c, err := gonet.DialTCPWithBind(ctx, g.stack, from, tcpip.FullAddress{NIC: nic, Addr: address, Port: to.Port()}, protocol)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", to, toErrno(err))
	}
	return c, nil
}

// toErrno returns the number for one of gVisor's errors, which gonet turns
// into text; others as they are.
func toErrno(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) {
		return err
	}
	for errno, e := range map[syscall.Errno]tcpip.Error{
		syscall.ECONNREFUSED: &tcpip.ErrConnectionRefused{},
		syscall.EHOSTUNREACH: &tcpip.ErrHostUnreachable{},
		syscall.ENETUNREACH:  &tcpip.ErrNetworkUnreachable{},
		syscall.ETIMEDOUT:    &tcpip.ErrTimeout{},
	} {
		if op.Err.Error() == e.String() {
			return errno
		}
	}
	return err
}

func convert(a netip.Addr) (tcpip.NetworkProtocolNumber, tcpip.Address) {
	if a.Is4() {
		return ipv4.ProtocolNumber, tcpip.AddrFrom4(a.As4())
	}
	return ipv6.ProtocolNumber, tcpip.AddrFrom16(a.As16())
}
