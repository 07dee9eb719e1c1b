package userns

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Root opens the root directory of the guest's process with O_PATH, as it is
// now: for openat2(2) with RESOLVE_IN_ROOT. Whatever stands for a path in there,
// "..", a symbolic link, a mount, means what it means to the guest.
//
// It needs a target that is a process, or the path of one's namespace: other
// paths do not tell whose files are meant.
func (n *Namespace) Root() (*os.File, error) {
	if n.pidfd == nil {
		return nil, &hinted{
			fmt.Errorf("files of %v: no process of it is known", n.target),
			"name a process of the guest by its number",
		}
	}
	path := "/proc/" + strconv.Itoa(n.pid) + "/root"
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// The number was the process's all the time if the process still lives.
	if ended(int(n.pidfd.Fd()), 0) {
		unix.Close(fd)
		return nil, fmt.Errorf("process %d: %w", n.pid, errEnded)
	}
	return os.NewFile(uintptr(fd), path), nil
}
