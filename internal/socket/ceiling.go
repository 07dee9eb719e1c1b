package socket

import (
	"golang.org/x/sys/unix"
)

// A Ceiling keeps descriptors free for those who need them more: others may have
// numbers below it only. The kernel gives the lowest number that is free (socket(2)),
// so that one at the ceiling says that as many are open. 0 is no ceiling.
type Ceiling int

// Reached tells whether a descriptor is one too many.
func (c Ceiling) Reached(fd int) bool { return c > 0 && fd >= int(c) }

// Admit returns nil, or closes a descriptor that is one too many and returns EMFILE.
func (c Ceiling) Admit(fd int) error {
	if !c.Reached(fd) {
		return nil
	}
	unix.Close(fd)
	return unix.EMFILE
}
