package callers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"taproot/test/lab"
)

// serveProgram ADDRESS tells clients, by TCP and UDP, the address they come
// from, until it is killed. It runs inside containers.
func serveProgram(args []string) int {
	listener, err1 := net.Listen("tcp", args[0])
	packets, err2 := net.ListenPacket("udp", args[0])
	if err := errors.Join(err1, err2); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		b := make([]byte, 1500)
		for {
			_, peer, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			packets.WriteTo([]byte(peer.String()), peer)
		}
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprint(conn, conn.RemoteAddr())
		conn.Close()
	}
}

// askProgram NETWORK ADDRESS asks such a service and prints the answer, or why
// there is none.
func askProgram(args []string) int {
	peer, err := ask(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, args[0], args[1])
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(peer)
	return 0
}

// whoAmI asks such a service from a namespace, and returns the answer.
func whoAmI(from *lab.Namespace, network, address string) (netip.Addr, error) {
	return ask(func(ctx context.Context) (net.Conn, error) { return from.Dial(ctx, network, address) })
}

func ask(dial func(context.Context) (net.Conn, error)) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience/4)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Patience / 4))
	b := make([]byte, 1500)
	if _, ok := conn.(*net.UDPConn); ok {
		if _, err := io.WriteString(conn, "who am I?"); err != nil {
			return netip.Addr{}, err
		}
	}
	n, err := conn.Read(b)
	if err != nil {
		return netip.Addr{}, err
	}
	peer, err := netip.ParseAddrPort(string(b[:n]))
	return peer.Addr().Unmap(), err
}
