package engine

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"taproot/internal/probe"
)

// The fake outside is a network namespace in which every address is its own: what
// the engine sends to anywhere goes to its lo, where a packet socket sees it, and
// nothing leaves the machine. A process is in it or not, so the tests that need one
// start the test binary again; outsideEnv tells it that it is inside.
const outsideEnv = "TAPROOT_TEST_OUTSIDE"

// inOutside reports whether this process is in a fake outside.
func inOutside() bool { return os.Getenv(outsideEnv) != "" }

// isFuzzWorker reports whether this process was started by go test -fuzz to
// try inputs. The engine of Go's fuzzing talks to it by descriptors 3 to 5.
func isFuzzWorker() bool {
	return slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.fuzzworker") })
}

// enterOutside runs this program again in a fake outside, with these arguments.
func enterOutside(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.Env = append(os.Environ(), outsideEnv+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return c
}

// fuzzInOutside is the whole life of a fuzz worker's parent: the worker itself is
// the same program in a fake outside, and has its descriptors.
func fuzzInOutside() (status int) {
	c := enterOutside(os.Args[1:]...)
	for fd := uintptr(3); fd <= 5; fd++ {
		c.ExtraFiles = append(c.ExtraFiles, os.NewFile(fd, "fuzzing"))
	}
	err := c.Start()
	for _, f := range c.ExtraFiles {
		f.Close() // so that the end of one side is the end of the other's pipe
	}
	if err != nil {
		return 1
	}
	err = c.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	return 0
}

// An outside sees what leaves.
type outside struct {
	fd  int // packet socket
	buf []byte
}

// A departure is a packet that left: a datagram, a SYN or an echo request. The port
// of an echo request is 0.
type departure struct {
	proto   byte // of IP
	source  netip.AddrPort
	to      netip.AddrPort
	payload string // of a datagram
}

// loopback brings up lo and makes it the way to, and the owner of, every address.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		_, dst, err := net.ParseCIDR(all)
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
		}); err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0), // IPv4 needs only the route
		os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0),
	)
}

// newOutside sets the namespace of this process up, with servers of DNS and TCP, for
// as long as the process lives.
func newOutside(t testing.TB) *outside {
	t.Helper()
	if err := loopback(); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"198.51.100.80:80", "[2001:db8::80]:80"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		go serveAnybody(l)
	}
	dns, err := net.ListenPacket("udp", outsideDNS.String())
	if err != nil {
		t.Fatal(err)
	}
	go answerAnything(dns)
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all&0xffff)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) // root of the machine alone may
	return &outside{fd: fd, buf: make([]byte, 1<<17)}
}

// outsideDNS is where the fake outside has a resolver.
var outsideDNS = netip.MustParseAddrPort("198.51.100.53:53")

// serveAnybody says a word to each client and hears it out.
func serveAnybody(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("hello"))
		c.Close()
	}
}

// answerAnything makes a response of any query.
func answerAnything(c net.PacketConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if n > 2 {
			b[2] |= 0x80 // QR, RFC 1035 §4.1.1
		}
		_, _ = c.WriteTo(b[:n], from)
	}
}

// next returns the next departure. With wait it waits for one.
func (o *outside) next(wait bool) (d departure, ok bool) {
	flags := unix.MSG_TRUNC
	if !wait {
		flags |= unix.MSG_DONTWAIT
	}
	for {
		n, from, err := unix.Recvfrom(o.fd, o.buf, flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return departure{}, false
		}
		link, is := from.(*unix.SockaddrLinklayer)
		if !is || link.Pkttype != unix.PACKET_OUTGOING {
			continue // what has left arrives as well
		}
		if d, ok = depart(o.buf[:min(n, len(o.buf))]); ok && d.source != outsideDNS {
			return d, true
		}
	}
}

// depart reads a packet that the host's kernel made.
func depart(b []byte) (d departure, ok bool) {
	if len(b) < 20 {
		return d, false
	}
	var from, to netip.Addr
	var l4 []byte
	switch b[0] >> 4 {
	case 4:
		from, to = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		d.proto, l4 = b[9], b[int(b[0]&15)*4:]
	case 6:
		from, to = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		d.proto, l4 = b[6], b[40:]
	}
	if len(l4) < 8 {
		return d, false
	}
	port := func(at int) uint16 { return binary.BigEndian.Uint16(l4[at:]) }
	d.source, d.to = netip.AddrPortFrom(from, port(0)), netip.AddrPortFrom(to, port(2))
	switch {
	case d.proto == unix.IPPROTO_UDP:
		d.payload = string(l4[8:])
		return d, true
	case d.proto == unix.IPPROTO_TCP:
		return d, len(l4) > 13 && l4[13]&0x12 == 2 // SYN without ACK
	case d.proto == unix.IPPROTO_ICMP && l4[0] == 8, d.proto == unix.IPPROTO_ICMPV6 && l4[0] == 128:
		d.source, d.to = netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, 0)
		return d, true
	}
	return d, false
}

// needOutside returns the fake outside of a fuzz target. In a test, which is in none,
// it runs the target's seeds in a process that is, and returns nil.
func needOutside(f *testing.F) *outside {
	f.Helper()
	if inOutside() {
		return newOutside(f)
	}
	if fuzzes() {
		return &outside{} // the workers have theirs
	}
	c := enterOutside("-test.run=^" + f.Name() + "$")
	c.Stdout = os.Stderr
	err := c.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		f.Skip(&probe.Unsupported{Feature: "user and network namespaces"})
	}
	if err == nil {
		err = c.Wait()
	}
	if err != nil {
		f.Fatalf("in a fake outside: %v", err)
	}
	return nil
}
