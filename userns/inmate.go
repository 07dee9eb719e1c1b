package userns

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An inmate is the child on its way into a cell, see maker.
type inmate struct {
	flags    uintptr // of clone
	own      bool    // namespaces
	root     bool    // an empty root
	sources  [maxCellFiles]uintptr
	count    uintptr // of sources
	program  uintptr // descriptor
	report   uintptr // descriptor
	argv     []*byte
	envv     []*byte
	maps     [3]writing
	words    cellWords
	noCaps   [2]unix.CapUserData
	caps     unix.CapUserHeader
	noMask   [sigsetSize]byte // no signal is blocked
	hostname [1]byte
	notice   notice
}

// A writing is a file that gets a text.
type writing struct {
	path *byte
	text []byte
	must bool
}

// cellWords are the strings of system calls.
type cellWords struct{ empty, slash, proc, dot, tmpfs, options *byte }

// emptyRoot are the options of the tmpfs that is an empty root: the least that
// the kernel can count.
const emptyRoot = "size=4k,nr_inodes=2,mode=0555"

// newInmate lays everything out.
func newInmate(c *Cell, report int) (i *inmate, err error) {
	i = &inmate{
		own: c.Namespaces, root: c.Root, flags: uintptr(unix.SIGCHLD), program: c.Program.Fd(), report: uintptr(report),
		caps: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
	}
	if c.Namespaces {
		i.flags |= unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	}
	for _, f := range c.Files {
		i.sources[i.count] = f.Fd()
		i.count++
	}
	if i.argv, err = syscall.SlicePtrFromStrings(c.Args); err != nil {
		return nil, err
	}
	if i.envv, err = syscall.SlicePtrFromStrings(c.Env); err != nil {
		return nil, err
	}
	for n, w := range []struct {
		name string
		text string
	}{
		{"setgroups", "deny"}, // before gid_map; not there before Linux 3.19
		{"uid_map", fmt.Sprintf("%[1]d %[1]d 1", os.Geteuid())},
		{"gid_map", fmt.Sprintf("%[1]d %[1]d 1", os.Getegid())},
	} {
		path, err := syscall.BytePtrFromString("/proc/self/" + w.name)
		if err != nil {
			return nil, err
		}
		i.maps[n] = writing{path, []byte(w.text), n > 0}
	}
	return i, i.words.prepare()
}

// prepare makes the strings.
func (w *cellWords) prepare() (err error) {
	for _, s := range []struct {
		to   **byte
		text string
	}{{&w.empty, ""}, {&w.slash, "/"}, {&w.proc, "/proc"}, {&w.dot, "."}, {&w.tmpfs, "tmpfs"}, {&w.options, emptyRoot}} {
		if *s.to, err = syscall.BytePtrFromString(s.text); err != nil {
			return err
		}
	}
	return nil
}

// clone forks; the child never returns from it. See fork for the rules.
//
//go:nosplit
//go:norace
func (i *inmate) clone() (pid uintptr, errno syscall.Errno) {
	if pid, errno = cloneWith(i.flags); errno != 0 || pid != 0 {
		return pid, errno
	}
	if i.keepFiles() && i.mapIDs() && i.emptyRoot() && i.renounce() {
		i.exec()
	}
	exit(statusFailed)
	return 0, 0
}

// keepFiles puts the descriptors where they are expected, and closes all others
// but those of the program and for the report.
//
//go:nosplit
//go:norace
func (i *inmate) keepFiles() bool {
	// Out of the way first: one may be where another is to be.
	if !i.moveUp(&i.report) || !i.moveUp(&i.program) {
		return false
	}
	for n := uintptr(0); n < i.count; n++ {
		if !i.moveUp(&i.sources[n]) {
			return false
		}
	}
	for n := uintptr(0); n < i.count; n++ {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_DUP3, i.sources[n], n, 0); errno != 0 {
			return i.fail(stepFiles, errno)
		}
	}
	low, high := i.report, i.program
	if low > high {
		low, high = high, low
	}
	closeRange(i.count, low)
	closeRange(low+1, high)
	closeRange(high+1, maxDescriptor)
	return true
}

// moveUp gives a descriptor another number, above those of the cell's.
//
//go:nosplit
//go:norace
func (i *inmate) moveUp(fd *uintptr) bool {
	moved, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, *fd, syscall.F_DUPFD_CLOEXEC, maxCellFiles)
	if errno != 0 {
		return i.fail(stepFiles, errno)
	}
	*fd = moved
	return true
}

// mapIDs gives the user namespace its only user and group.
//
//go:nosplit
//go:norace
func (i *inmate) mapIDs() bool {
	if !i.own {
		return true
	}
	// Or the files belong to root. It cannot fail, and exec sets it anew.
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0, 0)
	for n := range i.maps {
		w := &i.maps[n]
		fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, none, uintptr(unsafe.Pointer(w.path)), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno == 0 {
			_, _, errno = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&w.text[0])), uintptr(len(w.text)))
			syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
		}
		if errno != 0 && w.must {
			return i.fail(stepMap, errno)
		}
	}
	// The name of the machine is nothing that it needs to know.
	syscall.RawSyscall(unix.SYS_SETHOSTNAME, uintptr(unsafe.Pointer(&i.hostname)), 0, 0)
	return true
}

// emptyRoot makes the root directory an empty one. It is mounted where there is
// a directory for sure: the files of mapIDs were there.
//
//go:nosplit
//go:norace
func (i *inmate) emptyRoot() bool {
	if !i.root {
		return true
	}
	w := &i.words
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return i.mount(stepPrivate, nil, w.slash, nil, unix.MS_REC|unix.MS_PRIVATE, nil) &&
		i.mount(stepTmpfs, w.tmpfs, w.proc, w.tmpfs, flags, w.options) &&
		i.call(stepTmpfs, unix.SYS_CHDIR, w.proc, 0) &&
		i.call(stepPivot, unix.SYS_PIVOT_ROOT, w.dot, uintptr(unsafe.Pointer(w.dot))) &&
		// The old root is now mounted on the new one (pivot_root(2), "pivot_root(".", ".")").
		i.call(stepDetach, unix.SYS_UMOUNT2, w.dot, unix.MNT_DETACH) &&
		i.call(stepDetach, unix.SYS_CHDIR, w.slash, 0)
}

//go:nosplit
//go:norace
func (i *inmate) mount(s step, source, target, kind *byte, flags uintptr, options *byte) bool {
	_, _, errno := syscall.RawSyscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(source)), uintptr(unsafe.Pointer(target)),
		uintptr(unsafe.Pointer(kind)), flags, uintptr(unsafe.Pointer(options)), 0)
	return errno == 0 || i.fail(s, errno)
}

// call makes a system call of a path and another argument.
//
//go:nosplit
//go:norace
func (i *inmate) call(s step, number uintptr, path *byte, argument uintptr) bool {
	_, _, errno := syscall.RawSyscall(number, uintptr(unsafe.Pointer(path)), argument, 0)
	return errno == 0 || i.fail(s, errno)
}

// renounce gives up capabilities, the session, and all ways to gain privileges.
//
//go:nosplit
//go:norace
func (i *inmate) renounce() bool {
	syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0) // a fresh child leads no group: it cannot fail
	for c := uintptr(0); c <= 63; c++ {
		// EPERM is an ordinary user, whose programs get none; EINVAL is above the
		// kernel's last.
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); errno != 0 {
			break
		}
	}
	// This empties the ambient set as well (capabilities(7)).
	_, _, errno := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&i.caps)), uintptr(unsafe.Pointer(&i.noCaps)), 0)
	if errno != 0 {
		return i.fail(stepCaps, errno)
	}
	if _, _, errno = syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return i.fail(stepCaps, errno)
	}
	if _, _, errno = syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0); errno != 0 {
		return i.fail(stepCaps, errno)
	}
	return true
}

// exec becomes the program; it returns on failure only.
//
//go:nosplit
//go:norace
func (i *inmate) exec() {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&i.noMask)), 0, sigsetSize, 0, 0)
	_, _, errno := syscall.RawSyscall6(unix.SYS_EXECVEAT, i.program, uintptr(unsafe.Pointer(i.words.empty)),
		uintptr(unsafe.Pointer(&i.argv[0])), uintptr(unsafe.Pointer(&i.envv[0])), unix.AT_EMPTY_PATH, 0)
	i.fail(stepExec, errno)
}

// fail tells trouble. It returns false.
//
//go:nosplit
//go:norace
func (i *inmate) fail(s step, errno syscall.Errno) bool {
	i.notice = notice{kind: packetTrouble, step: s, errno: uint32(errno)}
	syscall.RawSyscall(syscall.SYS_WRITE, i.report, uintptr(unsafe.Pointer(&i.notice)), noticeSize)
	return false
}
