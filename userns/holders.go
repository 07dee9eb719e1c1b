package userns

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountInfo lists the mounts of our mount namespace (proc_pid_mountinfo(5)).
const mountInfo = "/proc/self/mountinfo"

// isMounted says whether a network namespace is mounted anywhere.
func isMounted(id inode) (bool, error) {
	b, err := os.ReadFile(mountInfo)
	if err != nil {
		return false, err
	}
	return mountedIn(b, id.number), nil
}

// mountedIn says whether a network namespace, by inode number, is in a list of
// mounts. The root of such a mount, field 4, is written as "net:[4026532345]".
func mountedIn(list []byte, number uint64) bool {
	want := fmt.Sprintf("net:[%d]", number)
	lines := bufio.NewScanner(bytes.NewReader(list))
	lines.Buffer(nil, len(list)+1) // no line is too long
	for lines.Scan() {
		if fields := strings.SplitN(lines.Text(), " ", 5); len(fields) == 5 && fields[3] == want {
			return true
		}
	}
	return false
}

// findHolder returns a process in a network namespace by its descriptor, or nil
// if there is none.
func findHolder(id inode) (*os.File, error) {
	// A process that forks and ends during a look shows neither itself nor its
	// child, so it takes two looks to be sure.
	for range 2 {
		f, err := lookForHolder(id)
		if f != nil || err != nil {
			return f, err
		}
	}
	return nil, nil
}

// lookForHolder looks at all processes once.
func lookForHolder(id inode) (*os.File, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if f, err := openHolder(pid, id); f != nil || err != nil {
			return f, err
		}
	}
	return nil, nil
}

// openHolder returns the descriptor of a process if that is in a network
// namespace, else nil. What it does later is not seen: one that moves to another
// namespace is a holder until it ends.
func openHolder(pid int, id inode) (*os.File, error) {
	if !isIn(pid, id) {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case err == unix.ESRCH:
		return nil, nil
	case err != nil:
		return nil, pidError(pid, err)
	case isIn(pid, id) && !ended(fd, 0): // the number may have changed hands
		return os.NewFile(uintptr(fd), "process"), nil
	}
	unix.Close(fd)
	return nil, nil
}

// isIn says whether a process is in a network namespace, and we may know.
func isIn(pid int, id inode) bool {
	got, err := inodeAt(namespacePath(pid, "net"))
	return err == nil && got == id
}
