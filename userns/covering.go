package userns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A covering keeps the guest's own /etc/resolv.conf and /etc/hosts in its view.
//
// A mount goes with the file that it is on (rename(2), "it will be atomically
// replaced"; the kernel takes away what is mounted on a name that is deleted, in all
// mount namespaces). So when the host replaces such a file, the guest sees the new one,
// and its mount is to be made again. Between the two are a few milliseconds.
type covering struct {
	user   *os.File // the guest's user namespace, which is the space's
	mounts *os.File // its mount namespace
	list   int      // descriptor of its list of mounts (proc_pid_mountinfo(5))
	covers []covered
}

// A covered is a cover and the host's file that it is on.
type covered struct {
	cover
	below  identity
	doubts int  // how often it was uncovered in vain, as it seemed
	given  bool // the guest has uncovered it
}

// An identity tells a file from one that took its place, if the inode is used again
// too.
type identity struct {
	inode
	born unix.StatxTimestamp // of the last change, where the file system does not know
}

// identify returns the identity of a path, which is not followed.
func identify(path string) (id identity, err error) {
	var st unix.Statx_t
	const want = unix.STATX_INO | unix.STATX_BTIME | unix.STATX_CTIME
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, want, &st); err != nil {
		return id, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	born := st.Btime
	if st.Mask&unix.STATX_BTIME == 0 {
		born = st.Ctime
	}
	return identity{inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, born}, nil
}

// newCovering takes hold of what the covers of a setup are kept by. process is the
// guest's first one, which has made them; before it does, below is what they are on.
func newCovering(process int, user *os.File, covers []covered) (*covering, error) {
	c := &covering{user: user, covers: covers, list: -1}
	var err error
	if c.mounts, err = os.Open(namespacePath(process, "mnt")); err != nil {
		return nil, err
	}
	path := fmt.Sprintf("/proc/%d/mountinfo", process)
	if c.list, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		c.close()
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return c, nil
}

func (c *covering) close() {
	c.mounts.Close()
	if c.list >= 0 {
		unix.Close(c.list)
	}
}

// covers returns those of a setup that are possible, with what they are on now.
func (s *Setup) covers() []covered {
	var list []covered
	for _, c := range []cover{{resolvConfPath, s.ResolvConf}, {hostsPath, s.Hosts}} {
		if below, err := identify(c.path); err == nil && c.content != nil {
			list = append(list, covered{cover: c, below: below})
		}
	}
	return list
}

// Keep makes the guest's view of Setup.ResolvConf and Setup.Hosts again when the host
// has replaced its own files, until ctx ends. What the guest has written to its own is
// lost then; what the guest has uncovered itself stays so. A file that is away is
// looked for every second. It needs Linux 5.2. It returns why it does not go on.
func (g *Guest) Keep(ctx context.Context) error {
	if g.covering == nil {
		return nil
	}
	for pause := coverPause; ; pause = min(2*pause, lookPeriod) {
		began := time.Now()
		if err := g.keepOnce(ctx); err != nil {
			return err
		}
		if time.Since(began) > lookPeriod { // it is about something else than the last time
			pause = coverPause
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// coverPause is how long it is waited before a file is looked for that was not there:
// one that is being replaced is there at once. It doubles up to lookPeriod.
const coverPause = time.Millisecond

// keepOnce is Keep until something is to be tried again later.
//
// Besides the guest's mounts it watches the host's directory: a file that the host moves
// away takes the guest's mount along, of which no list of mounts tells.
func (g *Guest) keepOnce(ctx context.Context) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.add(g.covering.list, unix.EPOLLPRI); err != nil {
		return err
	}
	if err := w.watchDir(resolvConfPath); err != nil {
		return err
	}
	var last time.Time
	return w.until(ctx, func() (again bool, err error) {
		if err := sleep(ctx, time.Until(last.Add(lookGap))); err != nil {
			return false, err
		}
		last = time.Now()
		for i := range g.covering.covers {
			c := &g.covering.covers[i]
			if done, err := g.covering.recover(ctx, c); err != nil {
				return false, fmt.Errorf("cover %s again: %w", c.path, err)
			} else if done == coveredAgain {
				g.log.Info("file of the host's replaced, and covered again", "path", c.path)
			} else if done == coverLater {
				again = true
			}
		}
		return again, nil
	})
}

// lookGap is the least time between two looks at the guest's mounts, which it can change
// as fast as it likes.
const lookGap = 50 * time.Millisecond

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// An outcome is what recover has done.
type outcome uint8

const (
	coverNothing outcome = iota
	coveredAgain
	coverLater // as there is no file now, or as the host is just replacing it
)

// maxDoubts is how often a file is looked at again, with pauses that double from
// coverPause on, before it is the one that it was: the mount goes a moment before the
// new file is in place.
const maxDoubts = 8

// recover covers what is uncovered.
func (c *covering) recover(ctx context.Context, what *covered) (outcome, error) {
	if on, err := c.stands(what.path); on || err != nil {
		what.doubts, what.given = 0, false
		return coverNothing, err
	}
	if what.given {
		return coverNothing, nil
	}
	now, err := identify(what.path)
	if errors.Is(err, fs.ErrNotExist) {
		return coverLater, nil
	}
	if err != nil {
		return coverNothing, err
	}
	if now == what.below {
		return what.doubt(), nil
	}
	err = c.mount(ctx, what.cover, now)
	if errors.Is(err, fs.ErrNotExist) { // the host takes it away again, or the guest has an /etc of its own
		return what.doubt(), nil
	}
	if isShort(err) {
		return coverLater, nil
	}
	if err != nil {
		return coverNothing, err
	}
	// The mount goes before the new file is in place, so what there was above may have
	// been the old one.
	if now, err = identify(what.path); err != nil {
		return coverLater, nil
	}
	if on, err := c.stands(what.path); !on || err != nil {
		return what.doubt(), err
	}
	what.below, what.doubts = now, 0
	return coveredAgain, nil
}

// doubt has a file looked at again, until it is the guest who has uncovered it.
func (c *covered) doubt() outcome {
	if c.doubts++; c.doubts <= maxDoubts {
		return coverLater
	}
	c.given = true
	return coverNothing
}

// isShort tells errors of what there may be later.
func isShort(err error) bool {
	for _, short := range []syscall.Errno{unix.EAGAIN, unix.ENOMEM, unix.ENOSPC, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, short) {
			return true
		}
	}
	return false
}

// mountsMost is how much of the guest's list of mounts is read, in bytes: some thousand
// mounts. The guest can make it a thousand times as long.
const mountsMost = 1 << 20

// errMounts says that a guest has too many mounts.
var errMounts = errors.New("the guest has too many mounts")

// stands tells whether the guest has a mount on a path.
func (c *covering) stands(path string) (bool, error) {
	if _, err := unix.Seek(c.list, 0, io.SeekStart); err != nil {
		return false, os.NewSyscallError("lseek", err)
	}
	list := &io.LimitedReader{R: reader(c.list), N: mountsMost}
	lines := bufio.NewScanner(list)
	lines.Buffer(nil, 8*unix.PathMax) // two paths, of which each byte may be four
	for lines.Scan() {
		if fields := bytes.SplitN(lines.Bytes(), []byte(" "), 6); len(fields) == 6 && string(fields[4]) == path {
			return true, nil
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong) || list.N <= 0:
		return false, errMounts
	case err != nil:
		return false, os.NewSyscallError("read", err)
	}
	return false, nil
}

// A reader is a descriptor that is read as it is, and does not wait.
type reader int

// Read implements io.Reader.
func (r reader) Read(b []byte) (int, error) {
	n, err := unix.Read(int(r), b)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), err
}

// mount has a child mount the content on the cover's path in the guest, if that is the
// file on below; another one there is the guest's own.
func (c *covering) mount(ctx context.Context, what cover, below identity) error {
	var report [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	told := os.NewFile(uintptr(report[0]), "covering")
	defer told.Close()
	m, err := newMounter(c, what, below.inode, report[1])
	if err != nil {
		unix.Close(report[1])
		return err
	}
	pid, err := m.fork()
	unix.Close(report[1])
	if err != nil {
		return err
	}
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		_ = unix.Kill(pid, unix.SIGKILL)
	})
	var packet [noticeSize]byte
	_, err = io.ReadFull(told, packet[:])
	if !stop() {
		<-killed // only then its number may be another's
	}
	awaitChild(pid)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		return noticed(bytes.Clone(packet[:]))
	}
	return nil
}
