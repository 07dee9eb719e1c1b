package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Capabilities takes all capabilities (capabilities(7)) from the process but those of
// keep, as far as it has them, and has its children begin without them. One that has
// none stays as it is. A process of root is not dumpable after that: what it has kept
// nobody gets who has the same user id and less than it had.
//
// A program that was built with cgo has no means to do it for all of its threads; that
// is an error, which is errors.ErrUnsupported.
func Capabilities(keep ...uint) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if sets == [2]unix.CapUserData{} {
		return nil
	}
	var mask [2]uint32
	for _, c := range keep {
		mask[c/32] |= 1 << (c % 32)
	}
	for i := range sets {
		sets[i].Effective &= mask[i]
		sets[i].Permitted &= mask[i]
		sets[i].Inheritable &= mask[i]
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&sets)
	switch {
	case errno == syscall.ENOTSUP:
		return fmt.Errorf("drop capabilities: program built with cgo: %w", errors.ErrUnsupported)
	case errno != 0:
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	if unix.Geteuid() != 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set not dumpable: %w", err)
	}
	return nil
}
