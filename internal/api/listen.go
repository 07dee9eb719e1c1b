package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLive says that somebody answers at a path already.
var ErrLive = errors.New("in use by a live instance")

// maxPath is the longest path of a socket in bytes: sun_path of unix(7) less
// the NUL that ends it.
const maxPath = 107

// errMoved says that a directory is not at its path any more.
var errMoved = errors.New("directory: removed meanwhile")

// A place is a directory that sockets are in, locked. Its owner unlocks it.
type place struct {
	path string
	file *os.File
}

// lock opens and locks the directory at path. With own it is made where it is
// not, and must be the user's alone.
func lock(path string, own bool) (*place, error) {
	for range 100 { // another instance may take away the directory that we have made
		p, err := tryLock(path, own)
		if !errors.Is(err, errMoved) && !(own && errors.Is(err, os.ErrNotExist)) {
			return p, err
		}
	}
	return nil, fmt.Errorf("%s: %w", path, errMoved)
}

func tryLock(path string, own bool) (*place, error) {
	if own {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|noFollow(own), 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	p := &place{path, os.NewFile(uintptr(fd), path)}
	if err := p.take(own); err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// noFollow keeps others from leading us elsewhere by a link in /tmp.
func noFollow(own bool) int {
	if own {
		return unix.O_NOFOLLOW
	}
	return 0
}

// take locks the directory and looks whether it is the right one.
func (p *place) take(own bool) error {
	here, err := p.file.Stat()
	if err != nil {
		return err
	}
	shared := checkOurs(p.path, here)
	if own && shared != nil {
		return shared
	}
	if err := p.flockSoon(shared != nil); err != nil {
		return &os.PathError{Op: "lock", Path: p.path, Err: err}
	}
	there, err := os.Stat(p.path)
	if err != nil || !os.SameFile(here, there) {
		return errMoved
	}
	return nil
}

// checkOurs returns an error unless a directory is the user's alone: in others
// anybody may have put sockets.
func checkOurs(path string, dir os.FileInfo) error {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok || !dir.IsDir() || int(st.Uid) != os.Geteuid() || dir.Mode().Perm()&0o077 != 0 {
		err := fmt.Errorf("directory %s: it is not ours alone (want owner %d and mode 0700)", path, os.Geteuid())
		if ok && dir.IsDir() && int(st.Uid) == os.Geteuid() {
			return &remedied{err, "chmod 700 " + path}
		}
		return &remedied{err, "XDG_RUNTIME_DIR names a directory of yours for it"}
	}
	return nil
}

const (
	// lockPatience is how long others can keep us waiting: ours hold the lock for
	// a millisecond, unless somebody has stopped them.
	lockPatience = 2 * time.Second

	// lockPause is how often that is tried.
	lockPause = 2 * time.Millisecond
)

// flockSoon locks a directory that others may lock for ever. In a shared one these
// may be anybody.
func (p *place) flockSoon(shared bool) error {
	for begun := time.Now(); ; time.Sleep(lockPause) {
		err := p.flock(unix.LOCK_EX | unix.LOCK_NB)
		if err != unix.EAGAIN {
			return err
		}
		switch late := time.Since(begun) > lockPatience; {
		case late && shared:
			return errLockedByOthers
		case late:
			return errLocked
		}
	}
}

// These say that somebody keeps a directory locked.
var (
	errLocked         = errors.New("a process of yours keeps it locked (lslocks(8) shows which)")
	errLockedByOthers = errors.New("somebody else keeps it locked; choose a directory of your own with mode 0700")
)

func (p *place) flock(how int) error {
	for {
		if err := unix.Flock(int(p.file.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// unlock lets others have the directory.
func (p *place) unlock() { p.file.Close() }

// bind makes the socket of a name in the directory, in place of one that is left
// from somebody who is gone.
func (p *place) bind(name string) (*net.UnixListener, error) {
	path := filepath.Join(p.path, name)
	if len(path) > maxPath {
		return nil, fmt.Errorf("API socket %s: longer than %d bytes", path, maxPath)
	}
	if err := p.vacate(path); err != nil {
		return nil, fmt.Errorf("API socket %s: %w", path, err)
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		// The mode of the socket is that of its file, less the umask.
		controlErr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(controlErr, err)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			err = errno // the words around it repeat the path
		}
		return nil, fmt.Errorf("API socket %s: %w", path, err)
	}
	listener := l.(*net.UnixListener) // that is what it is for "unix"
	listener.SetUnlinkOnClose(false)  // Server.Close looks whose it is
	return listener, nil
}

// vacate removes the socket at path, unless somebody listens there, or it is
// none.
func (p *place) vacate(path string) error {
	there, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if there.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("there is something that is no socket: %w", os.ErrExist)
	}
	pid, err := holder(path)
	switch {
	case err == nil:
		return fmt.Errorf("%w, process %d", ErrLive, pid)
	case errors.Is(err, syscall.EAGAIN): // too many are waiting there already
		return ErrLive
	case !errors.Is(err, syscall.ECONNREFUSED):
		return err
	}
	return os.Remove(path)
}

// holderPatience is how long a socket may take to be connected to.
const holderPatience = time.Second

// holder returns the process that made a socket, if somebody listens there.
func holder(path string) (pid int, err error) {
	c, err := net.DialTimeout("unix", path, holderPatience)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	peer, err := peerOf(c)
	return int(peer.Pid), err
}

// remove removes the socket of a name, if it is the file that is meant, and with
// own the directory, if it is empty then.
func (p *place) remove(name string, file os.FileInfo, own bool) error {
	path := filepath.Join(p.path, name)
	now, err := os.Lstat(path)
	if err == nil && os.SameFile(now, file) {
		err = os.Remove(path)
	}
	p.leave(own)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// leave removes the directory if it is one that is made by instances, and empty.
func (p *place) leave(own bool) {
	if own {
		_ = unix.Rmdir(p.path) // others may have theirs there
	}
}

// bury removes the sockets that processes have left of which nothing is there any
// more but an id in a name. It asks nobody who lives.
func (p *place) bury() {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return // bind says it
	}
	for _, e := range entries {
		name, isSocket := strings.CutSuffix(e.Name(), suffix)
		if pid, ok := maker(name); isSocket && ok && unix.Kill(pid, 0) == unix.ESRCH {
			_ = p.vacate(filepath.Join(p.path, e.Name())) // it may live, in another pid namespace
		}
	}
}

// Sweep removes the sockets that dead instances have left in Directory.
func Sweep() error {
	p, err := lock(Directory(), true)
	if err != nil {
		return err
	}
	defer p.unlock()
	names, err := filepath.Glob(filepath.Join(p.path, "*"+suffix))
	if err != nil {
		return err
	}
	for _, path := range names {
		_ = p.vacate(path) // what lives, and what is no socket, stays
	}
	p.leave(true)
	return nil
}
