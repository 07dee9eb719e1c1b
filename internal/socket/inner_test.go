package socket

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInner finds congestion control that does not pace, whatever the machine's is,
// and a receive buffer of fixed size, also in what a listener accepts.
func TestInner(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listener, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Control(func(fd uintptr) { Inner(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]syscall.RawConn{"listener": listener, "accepted": accepted} {
		var got string
		var buffer int
		var cause, cause2 error
		err := end.Control(func(fd uintptr) {
			got, cause = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
			buffer, cause2 = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		})
		if err := errors.Join(err, cause, cause2); err != nil {
			t.Fatal(err)
		}
		if got != "reno" {
			t.Errorf("%s: got %q, want %q", name, got, "reno")
		}
		if want := 2 * min(innerBuffer, maxReceiveBuffer(t)); buffer != want {
			t.Errorf("%s: got a receive buffer of %d, want %d", name, buffer, want)
		}
	}
}

// TestInnerTogether wants all sockets of a batch to be as the first one.
func TestInnerTogether(t *testing.T) {
	Inner()
	var fds []int
	for range 3 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	Inner(fds...)
	for i, fd := range fds {
		name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if name != inside || err != nil {
			t.Errorf("socket %d: got %q, %v, want %q", i, name, err, inside)
		}
		for option, want := range map[int]int{unix.SO_RCVBUF: receiveBuffer(t, fds[0]), unix.SO_KEEPALIVE: 1} {
			if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); got != want || err != nil {
				t.Errorf("socket %d: got %d, %v of option %d, want %d", i, got, err, option, want)
			}
		}
	}
	if max := maxReceiveBuffer(t); max >= innerBuffer && receiveBuffer(t, fds[2]) != 2*innerBuffer {
		t.Errorf("got a receive buffer of %d, want %d", receiveBuffer(t, fds[2]), 2*innerBuffer)
	}
}

// receiveBuffer returns a socket's receive buffer, in bytes as the kernel counts.
func receiveBuffer(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// maxReceiveBuffer returns what may be asked for, in bytes (socket(7)).
func maxReceiveBuffer(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
