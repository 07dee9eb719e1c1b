package relay

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receive is recv(2) without waiting. It returns io.EOF after a FIN.
func receive(fd uintptr, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		default:
			return int(n), nil
		}
	}
}

// spliceOnce is splice(2) without waiting; one of the two is a pipe. It
// returns 0 after a FIN.
func spliceOnce(from, to int32, n int) (int, error) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	for {
		moved, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(moved), nil
	}
}

// send is send(2) without waiting.
func send(fd int32, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// closeFD is close(2). It reports nothing about delivery.
func closeFD(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// closeWrite sends FIN.
func closeWrite(fd int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0); errno != 0 {
		return errno
	}
	return nil
}

// linger makes the close of a socket a reset. Sockets are made so when they come
// here: should this process die, the peers must not take that for the end of what
// was sent.
func linger(fd int) { setLinger(fd, unix.Linger{Onoff: 1}) }

// closeInOrder closes a socket after linger. What was sent still arrives.
func closeInOrder(fd int) {
	setLinger(fd, unix.Linger{})
	closeFD(fd)
}

func setLinger(fd int, l unix.Linger) {
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unix.SizeofLinger, 0)
}
