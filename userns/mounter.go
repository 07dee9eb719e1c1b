package userns

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mounter is a child that mounts a file on one of the guest's, without ever running
// Go (see fork). The guest must not see the file system that the file is on, not even
// for a moment; so that is mounted in a copy of the guest's mounts, which ends with the
// child, and only a mount of the file is taken from there to the guest.
type mounter struct {
	entry
	mounts uintptr // descriptor of the guest's mount namespace

	number, major, minor uint64       // of what the target is to be
	found                unix.Statx_t // what it is

	content                              []byte
	target, source, scratch, root, tmpfs *byte
	options, empty                       *byte
}

// mounterOptions are those of the tmpfs.
const mounterOptions = "mode=755,nr_inodes=8"

// newMounter lays everything out.
func newMounter(c *covering, what cover, below inode, report int) (*mounter, error) {
	dir, err := scratchDir()
	if err != nil {
		return nil, err
	}
	m := &mounter{
		entry:  entry{user: c.user.Fd(), net: none, socket: uintptr(report)},
		mounts: c.mounts.Fd(),
		number: below.number, major: uint64(unix.Major(below.device)), minor: uint64(unix.Minor(below.device)),
		content: append(what.content, 0)[:len(what.content)], // of which there is an address
	}
	for _, s := range []struct {
		to   **byte
		text string
	}{
		{&m.target, what.path}, {&m.source, dir + "/cover"}, {&m.scratch, dir}, {&m.root, "/"}, {&m.tmpfs, "tmpfs"},
		{&m.options, mounterOptions}, {&m.empty, ""},
	} {
		if *s.to, err = syscall.BytePtrFromString(s.text); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// fork starts the child.
func (m *mounter) fork() (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer runtime.KeepAlive(m)
	return fork(m.clone)
}

// clone forks; the child never returns from it. See fork for the rules.
//
//go:nosplit
//go:norace
func (m *mounter) clone() (pid uintptr, errno syscall.Errno) {
	if pid, errno = cloneSelf(); errno != 0 || pid != 0 {
		return pid, errno
	}
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0) // see entry.enter
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if m.setns(m.user, unix.CLONE_NEWUSER, stepUser) && m.setns(m.mounts, unix.CLONE_NEWNS, stepMounts) {
		m.cover()
	}
	exit(0)
	return 0, 0
}

// cover makes the file and takes its mount to the guest.
//
//go:nosplit
//go:norace
func (m *mounter) cover() {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	m.call(stepCopy, unix.SYS_UNSHARE, unix.CLONE_NEWNS, 0, 0, 0, 0)
	m.call(stepPrivate, unix.SYS_MOUNT, uintptr(unsafe.Pointer(m.empty)), uintptr(unsafe.Pointer(m.root)), 0, unix.MS_REC|unix.MS_PRIVATE, 0)
	m.call(stepTmpfs, unix.SYS_MOUNT, uintptr(unsafe.Pointer(m.tmpfs)), uintptr(unsafe.Pointer(m.scratch)),
		uintptr(unsafe.Pointer(m.tmpfs)), flags, uintptr(unsafe.Pointer(m.options)))
	fd := m.call(stepWrite, unix.SYS_OPENAT, none, uintptr(unsafe.Pointer(m.source)), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644, 0)
	m.call(stepWrite, unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(m.content))), uintptr(len(m.content)), 0, 0)
	m.call(stepWrite, unix.SYS_FCHMOD, fd, 0o644, 0, 0, 0) // whatever umask the caller has
	m.call(stepWrite, unix.SYS_CLOSE, fd, 0, 0, 0, 0)
	fd = m.call(stepTree, unix.SYS_OPEN_TREE, none, uintptr(unsafe.Pointer(m.source)), unix.OPEN_TREE_CLONE|unix.O_CLOEXEC, 0, 0)
	m.call(stepMounts, unix.SYS_SETNS, m.mounts, unix.CLONE_NEWNS, 0, 0, 0)
	m.call(stepMove, unix.SYS_STATX, none, uintptr(unsafe.Pointer(m.target)), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO, uintptr(unsafe.Pointer(&m.found)))
	if m.found.Ino != m.number || uint64(m.found.Dev_major) != m.major || uint64(m.found.Dev_minor) != m.minor {
		return // it is the guest's own
	}
	m.call(stepMove, unix.SYS_MOVE_MOUNT, fd, uintptr(unsafe.Pointer(m.empty)), none, uintptr(unsafe.Pointer(m.target)), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// call makes a system call. If that is refused, it tells, and ends the child.
//
//go:nosplit
//go:norace
func (m *mounter) call(s step, number, a, b, c, d, e uintptr) uintptr {
	r, _, errno := syscall.RawSyscall6(number, a, b, c, d, e, 0)
	if errno != 0 {
		m.fail(s, 0, errno)
		exit(statusFailed)
	}
	return r
}
