package nat

import (
	"context"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dial connects a socket of the host, without MPTCP, from where b says, and sets
// it up for the relay. It waits as long as the kernel does, or until ctx ends.
func dial(ctx context.Context, b Bind, target netip.AddrPort) (*os.File, error) {
	family := unix.AF_INET
	if target.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	setStreamOptions(fd)
	f := os.NewFile(uintptr(fd), "tcp")
	if err := b.start(fd, target.Addr()); err != nil {
		f.Close()
		return nil, err
	}
	if err := connect(ctx, f, newSockaddr(target)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// setStreamOptions sets what makes a relay faithful; none is essential.
func setStreamOptions(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle/time.Second))
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval/time.Second))
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount)
}

// connect connects f. It asks connect(2) again whenever the socket may be
// ready, and believes its answer: a socket that is not connecting yet looks
// ready to the poller too.
func connect(ctx context.Context, f *os.File, target sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var connectErr error
	waitErr := raw.Write(func(fd uintptr) bool {
		// Twice: the answer of a near host is there when the first returns.
		for range 2 {
			connectErr = connectTo(fd, &target)
			if connectErr != syscall.EINPROGRESS && connectErr != syscall.EALREADY {
				break
			}
		}
		return connectErr != syscall.EINPROGRESS && connectErr != syscall.EALREADY && connectErr != syscall.EINTR
	})
	switch {
	case waitErr != nil:
		return context.Canceled
	case connectErr == nil || connectErr == syscall.EISCONN:
		return nil
	}
	return os.NewSyscallError("connect", connectErr)
}

// connectTo is connect(2).
func connectTo(fd uintptr, target *sockaddr) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&target.raw[0])), uintptr(target.len))
	if errno != 0 {
		return errno
	}
	return nil
}
