// Package taptest is a wire: two TAP devices whose frames come out at the
// other end. It needs no namespace and no privilege.
package taptest

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"taproot/tap"
)

// sendBuffer holds a few superframes, bytes. More frames than fit make a
// writer wait, where a TAP device would drop them.
const sendBuffer = 4 << 20

// Pair returns the two ends of a wire. Both have the features given, which
// both sides must read and write their frames by. The caller closes both.
func Pair(features tap.Features) (a, b *tap.Device, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	var devices [2]*tap.Device
	for i, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // best effort: the kernel caps it
		if devices[i], err = tap.New(os.NewFile(uintptr(fd), "wire"), features); err != nil {
			return nil, nil, err
		}
	}
	return devices[0], devices[1], nil
}
