package socket

import (
	"context"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Both ends of a connection are probed when nothing came for KeepAliveIdle.
// The host's end needs it most: the guest's own probes are answered by the stack,
// and what stands between host and target would forget the connection.
// Interval and count are Linux's (tcp(7)), so that an end that is away for ten
// minutes is not given up. Kernel sockets have them from the sysctls of their
// namespace: to set them again takes 1.5 us of each connection.
const (
	KeepAliveIdle     = 5 * time.Minute
	KeepAliveInterval = 75 * time.Second
	KeepAliveCount    = 9
)

// Stream sets what makes a relay of a TCP socket faithful: no delay, urgent
// data in its place in the stream, where it is lost otherwise, and keep-alive
// probes. None of it is essential.
func Stream(fd int) {
	set(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	set(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	set(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	set(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int32(KeepAliveIdle/time.Second))
}

// innerBuffer is the receive buffer of a socket inside, in bytes. The kernel takes
// twice as much, and no more than twice net.core.rmem_max (socket(7)): where that is too
// little, its own choice is better (SO_BUF_LOCK, Linux 5.14).
const innerBuffer = 1 << 20

// Inner is Stream for sockets inside, the other end of each of which is one more socket of the same
// namespace, over lo, or mostly: of a nested network's it is not far. Congestion control has nothing to do there, and one that paces
// (BBR, where that is the machine's) sends by a timer what could have gone at once:
// so it is reno, which everybody may choose (tcp(7)). Nor has it the round-trip time
// for which the kernel's own choice grows to tens of megabytes, which are full then and
// in no cache: a smaller buffer costs both ends less.
//
// The sockets were made together in one namespace: what the first one has, or may not
// have, is not asked of the others.
func Inner(fds ...int) {
	if len(fds) == 0 {
		return
	}
	paces := congestion(fds[0]) != inside
	shrinks := shrink(fds[0])
	for i, fd := range fds {
		Stream(fd)
		if paces {
			_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, inside)
		}
		if shrinks && i > 0 {
			set(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, innerBuffer)
		}
	}
}

// inside is the congestion control of sockets inside.
const inside = "reno"

// congestion returns the congestion control of a socket, "" if it does not tell.
func congestion(fd int) string {
	name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		return ""
	}
	return name
}

// shrink gives a socket innerBuffer, and tells whether the kernel gives it whole. Where
// it does not, the socket keeps the kernel's choice.
func shrink(fd int) bool {
	set(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, innerBuffer)
	got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err == nil && got < 2*innerBuffer {
		set(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0)
		return false
	}
	return true
}

// set is setsockopt(2) of a number.
func set(fd, level, option int, value int32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
}

// Open returns a non-blocking socket that belongs to the runtime's poller. typ
// is SOCK_STREAM or SOCK_DGRAM; there is no MPTCP. prepare gets the socket before
// the poller does, and its error ends Open; nil prepares nothing.
func Open(family, typ int, prepare func(fd int) error) (*os.File, error) {
	fd, err := open(family, typ, 0)
	if err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := prepare(fd); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// open is socket(2).
func open(family, typ, protocol int) (fd int, err error) {
	fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, nil
}

// Family returns the address family of a: AF_INET or AF_INET6.
func Family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// Connect connects a non-blocking socket that belongs to the runtime's poller.
// It waits as long as the kernel does, or until ctx ends. It asks connect(2)
// again whenever the socket may be ready, and believes its answer: a socket
// that is not connecting yet looks ready to the poller too.
func Connect(ctx context.Context, f *os.File, target netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	address := NewAddress(target)
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var connectErr error
	waitErr := raw.Write(func(fd uintptr) bool {
		// Twice: the answer of a near host is there when the first returns.
		for range 2 {
			connectErr = connectTo(fd, &address)
			if connectErr != syscall.EINPROGRESS && connectErr != syscall.EALREADY {
				break
			}
		}
		return connectErr != syscall.EINPROGRESS && connectErr != syscall.EALREADY && connectErr != syscall.EINTR
	})
	switch {
	case ctx.Err() != nil && waitErr != nil:
		return context.Cause(ctx)
	case waitErr != nil:
		return waitErr
	case connectErr == nil || connectErr == syscall.EISCONN:
		return nil
	}
	return os.NewSyscallError("connect", connectErr)
}

// connectTo is connect(2).
func connectTo(fd uintptr, target *Address) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&target.raw[0])), uintptr(target.len))
	if errno != 0 {
		return errno
	}
	return nil
}
