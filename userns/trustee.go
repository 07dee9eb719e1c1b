package userns

import (
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// trusteeName is what ps(1) shows for an executor (15 bytes at most, prctl(2)).
const trusteeName = "taproot-will"

// stackBelow and stackAbove are how much of the stack is kept around a variable of
// the child's, in bytes: functions that are not to grow a stack need 800 at most,
// which the linker sees to, and those that are called by are as small.
const stackBelow, stackAbove = 2048, 2048

// executorReach is what an executor works with. The files stay the caller's; nil ones
// are none.
type executorReach struct {
	rules, routes *os.File // netlink sockets
	sysctls       *os.File // directory of net/ipv4/conf
	device        *os.File // only held
}

// A trustee is what the process of an executor needs, which does not run Go: it is a
// fork (see fork) that waits in one system call for the next will or the end of its
// parent, has all signals blocked, and a session of its own, so that it outlives who
// kills the parent's process group.
//
// It costs a fork (0.3 ms), as the guard does, and keeps little memory, see ballast.
type trustee struct {
	socket, rules, routes, sysctls uintptr // descriptors

	keep  [5]uintptr // all descriptors of ours in order, with none at the end
	will  will
	value [maxSysctlValue + 1]byte // of a sysctl, with a line feed

	ballast ballast
	name    *byte // of the process, for ps(1)
	args    title // likewise
}

// newTrustee lays everything out.
func newTrustee(socket int, r executorReach) (t *trustee, err error) {
	t = &trustee{socket: uintptr(socket), rules: none, routes: none, sysctls: none}
	t.ballast = newBallast()
	t.args.prepare(trusteeName)
	if t.name, err = syscall.BytePtrFromString(trusteeName); err != nil {
		return nil, err
	}
	device := none
	for _, d := range []struct {
		file *os.File
		to   *uintptr
	}{{r.rules, &t.rules}, {r.routes, &t.routes}, {r.sysctls, &t.sysctls}, {r.device, &device}} {
		if d.file == nil {
			continue
		}
		if *d.to, err = descriptor(d.file); err != nil {
			return nil, err
		}
	}
	t.keep = [...]uintptr{t.socket, t.rules, t.routes, t.sysctls, device}
	slices.Sort(t.keep[:])
	return t, nil
}

// descriptor returns a file's, which stays as non-blocking as it is. The file must
// not be closed as long as the number is used.
func descriptor(f *os.File) (fd uintptr, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Control(func(n uintptr) { fd = n })
	return fd, err
}

// fork starts the process.
func (t *trustee) fork() (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer runtime.KeepAlive(t)
	return fork(t.clone)
}

// clone forks; the child never returns from it. See fork for the rules.
//
//go:nosplit
//go:norace
func (t *trustee) clone() (pid uintptr, errno syscall.Errno) {
	if pid, errno = cloneSelf(); errno != 0 || pid != 0 {
		return pid, errno
	}
	t.isolate()
	t.lighten()
	t.wait()
	t.execute()
	exit(0)
	return 0, 0
}

// isolate leaves all that is the parent's but what the will is executed by.
//
//go:nosplit
//go:norace
func (t *trustee) isolate() {
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(t.name)), 0, 0, 0, 0)
	t.args.write()
	syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	first := uintptr(0)
	for i := range t.keep {
		if t.keep[i] == none {
			break
		}
		closeRange(first, t.keep[i])
		first = t.keep[i] + 1
	}
	closeRange(first, maxDescriptor)
}

// lighten drops all memory but its own and the stack that it runs on. What of that is
// above is of callers to whom it does not return.
//
//go:nosplit
//go:norace
func (t *trustee) lighten() {
	own := uintptr(unsafe.Pointer(t))
	here := uintptr(unsafe.Pointer(&own))
	t.ballast.drop(span{own, own + unsafe.Sizeof(*t)}, span{here - stackBelow, here + stackAbove})
}

// wait takes each will, which takes the place of the one before, until the parent has
// gone.
//
//go:nosplit
//go:norace
func (t *trustee) wait() {
	for {
		// No signal can interrupt it.
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, t.socket, uintptr(unsafe.Pointer(&t.will)), unsafe.Sizeof(t.will))
		if errno != 0 || n == 0 {
			return
		}
	}
}

// execute does what the will says. What cannot be done, nobody could be told.
//
//go:nosplit
//go:norace
func (t *trustee) execute() {
	w := &t.will
	syscall.RawSyscall(syscall.SYS_WRITE, t.rules, uintptr(unsafe.Pointer(&w.rules)), uintptr(w.rulesLen))
	syscall.RawSyscall(syscall.SYS_WRITE, t.routes, uintptr(unsafe.Pointer(&w.routes)), uintptr(w.routesLen))
	for i := range w.sysctls {
		if uint32(i) < w.sysctlsLen {
			t.reset(&w.sysctls[i])
		}
	}
}

// reset sets a sysctl to what it was before, if it is still what we have made of it.
//
//go:nosplit
//go:norace
func (t *trustee) reset(s *willedSysctl) {
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, t.sysctls, uintptr(unsafe.Pointer(&s.name)), unix.O_RDWR|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&t.value)), unsafe.Sizeof(t.value))
	if errno == 0 && t.still(s, n) {
		// A sysctl is written from its beginning wherever the descriptor is
		// (kernel.sysctl_writes_strict looks at the position).
		syscall.RawSyscall6(unix.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&s.before)), uintptr(s.beforeLen), 0, 0, 0)
	}
	syscall.RawSyscall(syscall.SYS_CLOSE, fd, 0, 0)
}

// still tells whether the n bytes that were read are what we have set, and a line feed.
//
//go:nosplit
//go:norace
func (t *trustee) still(s *willedSysctl, n uintptr) bool {
	if n != uintptr(s.afterLen)+1 || n > unsafe.Sizeof(t.value) {
		return false
	}
	for i := range s.after {
		if uint32(i) < s.afterLen && s.after[i] != t.value[i] {
			return false
		}
	}
	return true
}
