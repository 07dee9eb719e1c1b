package callers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"taproot/test/lab"
)

// The ways of TCP connections from outside, as far as a service can tell.
const (
	byFrames   = "frames"
	byShortcut = "shortcut" // the other end of its connection is in its own namespace
)

// serveProgram ADDRESS tells clients, by TCP and UDP, the address they come
// from, and by TCP the way too, until it is killed. It runs inside containers.
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
		fmt.Fprint(conn, conn.RemoteAddr(), " ", wayOf(conn))
		conn.Close()
	}
}

// wayOf looks for the other end of a connection among the namespace's own
// (proc_net_tcp.txt of the kernel's documentation).
func wayOf(conn net.Conn) string {
	peer := netip.MustParseAddrPort(conn.RemoteAddr().String())
	if peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()); peer.Addr().Is6() {
		return byFrames // nobody asks
	}
	a := peer.Addr().As4()
	local := fmt.Sprintf(": %08X:%04X ", binary.NativeEndian.Uint32(a[:]), peer.Port())
	if text, err := os.ReadFile("/proc/self/net/tcp"); err == nil && strings.Contains(string(text), local) {
		return byShortcut
	}
	return byFrames
}

// askProgram NETWORK ADDRESS asks such a service and prints the answer, or why
// there is none.
func askProgram(args []string) int {
	peer, _, err := ask(func(ctx context.Context) (net.Conn, error) {
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
	peer, _, err := askFrom(from, network, address)
	return peer, err
}

func askFrom(from *lab.Namespace, network, address string) (peer netip.Addr, way string, err error) {
	return ask(func(ctx context.Context) (net.Conn, error) { return from.Dial(ctx, network, address) })
}

// ask returns the address that the service saw, and the way, "" for UDP.
func ask(dial func(context.Context) (net.Conn, error)) (seen netip.Addr, way string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience/4)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return netip.Addr{}, "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Patience / 4))
	b := make([]byte, 1500)
	if _, ok := conn.(*net.UDPConn); ok {
		if _, err := io.WriteString(conn, "who am I?"); err != nil {
			return netip.Addr{}, "", err
		}
	}
	n, err := conn.Read(b)
	if err != nil {
		return netip.Addr{}, "", err
	}
	text, way, _ := strings.Cut(string(b[:n]), " ")
	peer, err := netip.ParseAddrPort(text)
	return peer.Addr().Unmap(), way, err
}
