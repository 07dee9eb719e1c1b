package portfwd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// unixMode is the mode of a listening Unix socket: for its owner only.
const unixMode = 0o600

// A UnixError says which Unix socket could not be published. Err is or wraps a
// syscall.Errno.
type UnixError struct {
	Path string
	Err  error
}

// Error returns operation, object and cause.
func (e *UnixError) Error() string { return "publish " + unixPrefix + e.Path + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *UnixError) Unwrap() error { return e.Err }

// Hint returns what the user can do about it, or "".
func (e *UnixError) Hint() string {
	switch {
	case errors.Is(e.Err, errNotSocket):
		return "that is a file: name a path where nothing is"
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "to see who listens there: ss -xlp src " + e.Path
	case errors.Is(e.Err, syscall.ENOENT):
		return "mkdir -p " + filepath.Dir(e.Path)
	}
	return ""
}

// errNotSocket says that a path is in use by a file that is no socket.
var errNotSocket = fmt.Errorf("not a socket: %w", syscall.EADDRINUSE)

// A unixFile is the file of a listening Unix socket.
type unixFile struct {
	dir     *os.File // that it is in, with O_PATH
	name    string
	id      inode
	ofGuest bool
}

// An inode says which file is meant. It is nobody else's as long as a socket is
// bound to it.
type inode struct{ device, number uint64 }

// openUnix opens the listening Unix socket of a rule.
func (t *Table) openUnix(r Rule) ([]bound, error) {
	s, err := t.listenUnix(r.Direction == Outbound, r.ListenUnix)
	if err != nil {
		return nil, &UnixError{r.ListenUnix, err}
	}
	return []bound{s}, nil
}

// listenUnix listens at a path of the guest or the host.
func (t *Table) listenUnix(inGuest bool, path string) (bound, error) {
	if !inGuest {
		return listenBelow(nil, path)
	}
	return lookUp(t, func(root *os.File) (bound, error) { return listenBelow(root, path) }, func(s bound) {
		s.unix.close()
		closeAll([]bound{s})
	})
}

// listenBelow listens at a path below the guest's root, or of the host if root is
// nil.
func listenBelow(root *os.File, path string) (bound, error) {
	slash := strings.LastIndexByte(path, '/') // filepath.Dir takes a link and ".." behind it for nothing
	dir, err := openPath(root, path[:max(slash, 1)], unix.O_DIRECTORY)
	if err != nil {
		return bound{}, err
	}
	u := &unixFile{dir: dir, name: path[slash+1:], ofGuest: root != nil}
	fd, err := u.listen()
	if err != nil {
		dir.Close()
		return bound{}, err
	}
	return bound{file: os.NewFile(uintptr(fd), unixPrefix+path), unix: u}, nil
}

// root returns the root directory of the guest, or nil for that of the host.
func (t *Table) root(ofGuest bool) (*os.File, error) {
	switch {
	case !ofGuest:
		return nil, nil
	case t.cfg.Root == nil:
		return nil, errNoGuest
	}
	return t.cfg.Root()
}

// openPath opens a path with O_PATH: below root, which symbolic links cannot
// leave either and no link of proc(5) leads out of, or anywhere if root is nil.
func openPath(root *os.File, path string, flags uint64) (*os.File, error) {
	at, how := unix.AT_FDCWD, unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags}
	if root != nil {
		at = int(root.Fd()) // with O_PATH it is neither blocking nor not
		how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	}
	for i := 1; ; i++ {
		fd, err := unix.Openat2(at, path, &how)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EINTR && err != unix.EAGAIN || i == openTries {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
	}
}

// openTries is how often a path is looked up while signals, or somebody who moves
// directories meanwhile, are in the way: openat2(2), EAGAIN.
const openTries = 64

// listen makes the socket. A file of a socket that nobody listens on is
// replaced, anything else is in use.
func (u *unixFile) listen() (fd int, err error) {
	fd, err = u.bind()
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := u.removeDead(); err != nil {
			return -1, err
		}
		fd, err = u.bind()
	}
	if err != nil {
		return -1, err
	}
	if u.id, err = u.identify(); err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, backlog))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bind makes a socket and its file. The file has the mode that the socket has
// before, so that nobody ever finds it with another.
func (u *unixFile) bind() (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = unix.Fchmod(fd, unixMode); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: self(u.dir) + "/" + u.name})
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// self returns the path by which this process reaches an open file, whatever
// has its name now.
func self(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// removeDead removes the file if it is a socket that nobody listens on.
func (u *unixFile) removeDead() error {
	file, err := openPath(u.dir, u.name, unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer file.Close()
	c, err := connectFile(file)
	switch {
	case err == nil:
		c.Close()
		return syscall.EADDRINUSE
	case errors.Is(err, errNotSocket):
		return err
	case !errors.Is(err, syscall.ECONNREFUSED): // a full backlog, or another's
		return syscall.EADDRINUSE
	}
	if u.id, err = identify(file); err != nil {
		return err
	}
	u.remove()
	return nil
}

// remove removes the file, if it is still the one that it was.
func (u *unixFile) remove() {
	if now, err := u.identify(); err == nil && now == u.id {
		_ = unix.Unlinkat(int(u.dir.Fd()), u.name, 0) // who removed it meanwhile did us a favour
	}
}

// close removes the file. The socket must still be open.
func (u *unixFile) close() {
	u.remove()
	u.dir.Close()
}

// identify says which file has the name now.
func (u *unixFile) identify() (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(u.dir.Fd()), u.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return inode{}, os.NewSyscallError("stat", err)
	}
	return inode{uint64(st.Dev), st.Ino}, nil
}

func identify(f *os.File) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return inode{}, os.NewSyscallError("stat", err)
	}
	return inode{uint64(st.Dev), st.Ino}, nil
}

// ConnectUnix connects to the Unix socket that a rule leads to, without
// waiting: of the guest for an inbound rule, of the host for an outbound one.
// In the guest, symbolic links lead where they lead there. The caller owns the
// socket, which is non-blocking.
//
// Only the lookup of the path may block, on a file system that does; the guest's
// does so for 5 seconds at most.
func (t *Table) ConnectUnix(rule int) (*os.File, error) {
	t.mu.Lock()
	e := t.entries[rule]
	t.mu.Unlock()
	if e == nil || e.Rule.TargetUnix == "" {
		return nil, fmt.Errorf("connect for rule %d: %w", rule, ErrNoRule)
	}
	f, err := t.connectUnix(e.Rule)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", e.Rule.to(), err)
	}
	return f, nil
}

func (t *Table) connectUnix(r Rule) (*os.File, error) {
	if r.Direction == Outbound {
		return connectBelow(nil, r.TargetUnix)
	}
	return lookUp(t, func(root *os.File) (*os.File, error) { return connectBelow(root, r.TargetUnix) }, func(f *os.File) { f.Close() })
}

// connectBelow connects to a path below the guest's root, or of the host if root is
// nil.
func connectBelow(root *os.File, path string) (*os.File, error) {
	file, err := openPath(root, path, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return connectFile(file)
}

// connectFile connects to a Unix socket that was looked up: by descriptor, so
// that nobody can put another in its place.
func connectFile(file *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("stat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errNotSocket
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: self(file)}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), "unix"), nil
}

// checkTarget returns why a rule's Unix socket could never be reached. One that
// is not there yet may come.
func (t *Table) checkTarget(r Rule) error {
	if r.TargetUnix == "" {
		return nil
	}
	root, err := t.root(r.Direction == Inbound)
	if err != nil {
		return fmt.Errorf("publish %v: %w", r, err)
	}
	if root != nil {
		root.Close()
	}
	return nil
}
