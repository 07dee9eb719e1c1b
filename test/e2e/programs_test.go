package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// The programs of this file run inside the guest. Each prints one result on
// standard output, which its test compares, and returns 1 if it has none.

// quit reports why a program has no result.
func quit(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// errno is the name of the system's error in err, or else its text.
func errno(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return unix.ErrnoName(number)
	}
	return err.Error()
}

// connect is a plain blocking connect(2), so that the error is the kernel's
// own.
func connect(network, address string) (*net.TCPConn, error) {
	dialer := net.Dialer{FallbackDelay: -1}
	conn, err := dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// connectProgram ADDRESS... connects to all at once and prints a line for each:
// "connected" or the name of the error.
func connectProgram(args []string) int {
	results := make([]string, len(args))
	var all sync.WaitGroup
	for i, address := range args {
		all.Go(func() {
			conn, err := connect("tcp", address)
			if err != nil {
				results[i] = errno(err)
				return
			}
			conn.Close()
			results[i] = "connected"
		})
	}
	all.Wait()
	fmt.Println(strings.Join(results, "\n"))
	return 0
}

// halfCloseProgram ADDRESS N sends N bytes, says that there are no more, and
// prints what it gets from then on.
func halfCloseProgram(args []string) int {
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return quit(err)
	}
	conn, err := connect("tcp", args[0])
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	if _, err := io.Copy(conn, body(n)); err != nil {
		return quit(err)
	}
	if err := conn.CloseWrite(); err != nil {
		return quit(err)
	}
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		return quit(err)
	}
	return 0
}

// resetProgram ADDRESS says hello, waits for one byte and resets the
// connection.
func resetProgram(args []string) int {
	conn, err := connect("tcp", args[0])
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return quit(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return quit(err)
	}
	if err := conn.SetLinger(0); err != nil {
		return quit(err)
	}
	return 0
}

// holdProgram ADDRESS connects, says so, and after each line on standard input
// sends a byte and prints what came back, or the error, which ends it.
func holdProgram(args []string) int {
	conn, err := connect("tcp", args[0])
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	fmt.Println("connected")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		b := []byte("x")
		_, err := conn.Write(b)
		if err == nil {
			_, err = io.ReadFull(conn, b)
		}
		if err != nil {
			fmt.Println(errno(err))
			return 0
		}
		fmt.Printf("%s\n", b)
	}
	return 0
}

// manyProgram ADDRESS N opens N connections, uses each of them once all are
// open, and prints how many of them echoed.
func manyProgram(args []string) int {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return quit(err)
	}
	var opened, used sync.WaitGroup
	results := make([]error, n)
	opened.Add(n)
	for i := range n {
		used.Go(func() {
			conn, err := connect("tcp", args[0])
			opened.Done()
			if err != nil {
				results[i] = err
				return
			}
			defer conn.Close()
			opened.Wait()
			results[i] = exchange(conn, uint32(i))
		})
	}
	used.Wait()
	return report(results)
}

// exchange sends a number and wants it back.
func exchange(conn net.Conn, number uint32) error {
	if err := binary.Write(conn, binary.BigEndian, number); err != nil {
		return err
	}
	var got uint32
	if err := binary.Read(conn, binary.BigEndian, &got); err != nil {
		return err
	}
	if got != number {
		return fmt.Errorf("got %d, want %d", got, number)
	}
	return nil
}

// report prints how many results are good, and how often each error came.
func report(results []error) int {
	good, bad := 0, map[string]int{}
	for _, err := range results {
		if err == nil {
			good++
		} else {
			bad[errno(err)]++
		}
	}
	fmt.Println(good)
	for text, count := range bad {
		fmt.Fprintln(os.Stderr, count, text)
	}
	return 0
}

// churnProgram ADDRESS CLIENTS ROUNDS opens, uses and closes connections with
// so many clients at a time, so often each. It prints how many went well, and
// how many of these were open only after a second, which is when a kernel sends
// a lost SYN again.
func churnProgram(args []string) int {
	clients, err1 := strconv.Atoi(args[1])
	rounds, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2); err != nil {
		return quit(err)
	}
	results := make([]error, clients*rounds)
	var all sync.WaitGroup
	var late atomic.Int32
	for c := range clients {
		all.Go(func() {
			for r := range rounds {
				i := c*rounds + r
				results[i] = visit(args[0], uint32(i), &late)
			}
		})
	}
	all.Wait()
	status := report(results)
	fmt.Println(late.Load())
	return status
}

func visit(address string, number uint32, late *atomic.Int32) error {
	start := time.Now()
	conn, err := connect("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if time.Since(start) >= time.Second {
		late.Add(1)
	}
	return exchange(conn, number)
}

// udpProgram ADDRESS SIZE... sends a datagram of each size and prints the sizes
// that came back unchanged.
func udpProgram(args []string) int {
	conn, err := net.Dial("udp", args[0])
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	var good []string
	for _, arg := range args[1:] {
		size, err := strconv.ParseInt(arg, 10, 64)
		if err != nil {
			return quit(err)
		}
		sent := make([]byte, size)
		io.ReadFull(body(size), sent)
		if _, err := askFor(conn, sent, func(got []byte) bool { return slices.Equal(got, sent) }); err != nil {
			fmt.Fprintln(os.Stderr, arg, errno(err))
			continue
		}
		good = append(good, arg)
	}
	fmt.Println(strings.Join(good, " "))
	return 0
}

// ask sends a datagram and waits for the answer; a datagram may get lost on a
// busy machine, so it tries again and again.
func ask(conn net.Conn, datagram []byte) ([]byte, error) {
	return askFor(conn, datagram, func([]byte) bool { return true })
}

// askFor is ask for an answer that is right: another one may be late, of what was
// asked before.
func askFor(conn net.Conn, datagram []byte, right func(answer []byte) bool) ([]byte, error) {
	b := make([]byte, 65536)
	var err error
	for end := time.Now().Add(lab.Patience); time.Now().Before(end); {
		if _, err = conn.Write(datagram); err != nil {
			continue // an error of the one before
		}
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		for {
			var n int
			if n, err = conn.Read(b); err != nil {
				break
			}
			if right(b[:n]) {
				return b[:n], nil
			}
		}
	}
	return nil, err
}

// udpErrorProgram ADDRESS prints the error that a datagram is answered with.
func udpErrorProgram(args []string) int {
	conn, err := net.Dial("udp", args[0])
	if err != nil {
		fmt.Println(errno(err))
		return 0
	}
	defer conn.Close()
	if err := wantErrors(conn.(*net.UDPConn)); err != nil {
		return quit(err)
	}
	for end := time.Now().Add(lab.Patience); time.Now().Before(end); {
		if _, err := conn.Write([]byte("x")); err != nil {
			fmt.Println(errno(err))
			return 0
		}
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		if err == nil {
			fmt.Println("answered")
			return 0
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			fmt.Println(errno(err))
			return 0
		}
	}
	fmt.Println("silence")
	return 0
}

// wantErrors makes a socket report every ICMP error. Without it, the kernel
// keeps those to itself that may be transient (ip(7), IP_RECVERR).
func wantErrors(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if conn.RemoteAddr().(*net.UDPAddr).IP.To4() == nil {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, failed)
}

// udpPortsProgram FROM TO... sends from one socket to several servers, which
// answer with the address they saw, and prints the answers.
func udpPortsProgram(args []string) int {
	conn, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	for _, to := range args[1:] {
		peer, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			return quit(err)
		}
		answer, err := askPeer(conn, peer)
		if err != nil {
			return quit(err)
		}
		fmt.Printf("%s\n", answer)
	}
	return 0
}

// askPeer asks one of the socket's peers until it answers.
func askPeer(conn net.PacketConn, peer *net.UDPAddr) ([]byte, error) {
	b := make([]byte, 1500)
	var err error
	for end := time.Now().Add(lab.Patience); time.Now().Before(end); {
		if _, err = conn.WriteTo([]byte("who am I?"), peer); err != nil {
			return nil, err
		}
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		for {
			n, from, readErr := conn.ReadFrom(b)
			if err = readErr; err != nil {
				break
			}
			if from.String() == peer.String() {
				return b[:n], nil
			}
		}
	}
	return nil, err
}

// fdsProgram prints the descriptors it was started with.
func fdsProgram([]string) int {
	paths, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return quit(err)
	}
	var open []string
	for _, path := range paths {
		number, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			return quit(err)
		}
		// What our own runtime has opened is close-on-exec; what we were
		// started with cannot be.
		flags, err := unix.FcntlInt(uintptr(number), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		open = append(open, filepath.Base(path))
	}
	fmt.Println(strings.Join(open, " "))
	return 0
}

// addressesProgram prints what the guest's interfaces look like, one line each.
func addressesProgram([]string) int {
	interfaces, err := net.Interfaces()
	if err != nil {
		return quit(err)
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			return quit(err)
		}
		var texts []string
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				texts = append(texts, p.String())
			}
		}
		slices.Sort(texts)
		fmt.Println(i.Name, i.MTU, i.Flags&net.FlagUp != 0, i.HardwareAddr, strings.Join(texts, " "))
	}
	return 0
}

// spoofProgram SOURCE TARGET sends a datagram with a source address that is
// not ours, then an honest one, both with the words in them.
func spoofProgram(args []string) int {
	source, target := netip.MustParseAddr(args[0]), netip.MustParseAddrPort(args[1])
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return quit(os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	packet := udpPacket(netip.AddrPortFrom(source, 4000), target, []byte("spoofed"))
	err = unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: target.Addr().As4()})
	if err != nil {
		return quit(os.NewSyscallError("sendto", err))
	}
	conn, err := net.Dial("udp", target.String())
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("honest")); err != nil {
		return quit(err)
	}
	return 0
}

// udpPacket is an IPv4 packet with a UDP datagram. The kernel fills in length
// and checksum of the IP header (raw(7)); the UDP checksum is left out.
func udpPacket(from, to netip.AddrPort, payload []byte) []byte {
	b := []byte{0: 0x45, 8: 64, 9: unix.IPPROTO_UDP, 19: 0}
	copy(b[12:], from.Addr().AsSlice())
	copy(b[16:], to.Addr().AsSlice())
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(b, 0, 0)
	return append(b, payload...)
}
