package userns

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxNesting is how deep user namespaces nest (user_namespaces(7)).
	maxNesting = 32

	// clearDeadline bounds how long clear waits for what it has killed. Only a
	// process in uninterruptible sleep takes longer, and nobody can end it.
	clearDeadline = 5 * time.Second

	// clearPause is the longest wait for one killed process before the next
	// look at all of them.
	clearPause = 100 * time.Millisecond
)

// A space is a user namespace, held open so that its inode number cannot be
// given to another.
type space struct {
	file *os.File
	id   inode
}

// An inode says which file a descriptor or path means.
type inode struct{ device, number uint64 }

// openSpace opens the user namespace of a process. We own that namespace, which
// makes us capable in it and in those below, so that everything in them can be
// seen and signalled whatever ids it has.
func openSpace(pid int) (*space, error) {
	f, err := os.Open(namespacePath(pid, "user"))
	if err != nil {
		return nil, err
	}
	s, err := newSpace(f)
	if err != nil {
		f.Close()
	}
	return s, err
}

// newSpace takes over an open user namespace.
func newSpace(f *os.File) (*space, error) {
	id, err := inodeOf(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return &space{file: f, id: id}, nil
}

func (s *space) close() error { return s.file.Close() }

// clear kills every process in the namespace and in those below it, until a
// look at all of them finds none.
func (s *space) clear() error {
	deadline := time.Now().Add(clearDeadline)
	for {
		n, err := s.killAll()
		if n == 0 || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end guest: %d processes: %w", n, os.ErrDeadlineExceeded)
		}
	}
}

// killAll kills every process that it finds and returns how many were found.
func (s *space) killAll() (found int, err error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s.kill(pid) {
			found++
		}
	}
	return found, nil
}

// kill kills a process if it belongs to the namespace, and waits a little for
// its end. It reports whether the process was alive.
//
// The descriptor is opened before the namespace is looked at: if the number
// changes hands in between, the descriptor still means the one that has gone.
func (s *space) kill(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		return s.holds(pid) && unix.Kill(pid, unix.SIGKILL) == nil
	}
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if !s.holds(pid) || ended(fd, 0) {
		return false
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return false
	}
	ended(fd, clearPause)
	return true
}

// ended waits for the end of a process. A zombie has ended.
func ended(pidfd int, wait time.Duration) bool {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, int(wait.Milliseconds()))
	return err == nil && n == 1
}

// holds says whether a process is in the namespace or in one below it.
func (s *space) holds(pid int) bool {
	path := namespacePath(pid, "user")
	id, err := inodeAt(path)
	if err != nil {
		return false // gone, or not ours
	}
	if id == s.id {
		return true
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	return s.above(fd)
}

// above says whether the namespace is above that of fd, which it closes.
func (s *space) above(fd int) bool {
	for range maxNesting {
		// Since Linux 4.9. EPERM: the parent is out of our sight.
		parent, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		unix.Close(fd)
		if err != nil {
			return false
		}
		fd = parent
		if id, err := inodeOf(fd); err == nil && id == s.id {
			unix.Close(fd)
			return true
		}
	}
	unix.Close(fd)
	return false
}

// inodeAt returns the inode that a path means in the end.
func inodeAt(path string) (inode, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return inode{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return inode{uint64(st.Dev), uint64(st.Ino)}, nil
}

func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return inode{}, os.NewSyscallError("fstat", err)
	}
	return inode{uint64(st.Dev), uint64(st.Ino)}, nil
}
