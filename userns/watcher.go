package userns

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A watcher wakes its owner when one of several descriptors has news. It is an
// epoll descriptor that Go's poller watches like any other, since that cannot
// watch for what a change of mounts is (EPOLLPRI). It has no goroutine and, while
// it waits, no thread.
type watcher struct {
	epoll   *os.File
	raw     syscall.RawConn
	inotify int // descriptor, or -1
	clock   int // descriptor, or -1
	mounts  int // descriptor, or -1
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // which os.NewFile goes by
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	w := &watcher{epoll: os.NewFile(uintptr(fd), "watcher"), inotify: -1, clock: -1, mounts: -1}
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watcher) close() {
	w.epoll.Close()
	for _, fd := range []int{w.inotify, w.clock, w.mounts} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// watchProcess wakes when the process of a descriptor has ended, until the
// descriptor is closed.
func (w *watcher) watchProcess(pidfd *os.File) error {
	return w.add(int(pidfd.Fd()), unix.EPOLLIN)
}

// watchMounts wakes when the mounts of our mount namespace change.
func (w *watcher) watchMounts() error {
	// Not by package os: the kernel tells of a change once, to whoever polls the
	// file first, and that would be Go's poller (proc_pid_mounts(5)).
	var err error
	if w.mounts, err = unix.Open(mountInfo, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: mountInfo, Err: err}
	}
	return w.add(w.mounts, unix.EPOLLPRI)
}

// lookPeriod is how often a path is looked at for which there is no inotify
// instance left.
const lookPeriod = time.Second

// watchDir wakes when names come and go in the directory of a path. A user has
// only so many inotify instances, 128 mostly, and others may hold them all: then
// it wakes every lookPeriod.
func (w *watcher) watchDir(path string) error {
	var err error
	if w.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == unix.EMFILE || err == unix.ENFILE {
		return w.watchClock()
	}
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	const mask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	dir := filepath.Dir(path)
	if _, err := unix.InotifyAddWatch(w.inotify, dir, mask); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	return w.add(w.inotify, unix.EPOLLIN)
}

// watchClock wakes every lookPeriod.
func (w *watcher) watchClock() error {
	var err error
	if w.clock, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	period := unix.NsecToTimespec(int64(lookPeriod))
	if err := unix.TimerfdSettime(w.clock, 0, &unix.ItimerSpec{Interval: period, Value: period}, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	return w.add(w.clock, unix.EPOLLIN)
}

func (w *watcher) add(fd int, events uint32) error {
	event := unix.EpollEvent{Fd: int32(fd), Events: events | unix.EPOLLET} // each news once
	var err error
	if e := w.raw.Control(func(epoll uintptr) {
		err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, fd, &event)
	}); e != nil {
		return e
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// until calls done now and whenever there is news, until it returns true or an
// error, or ctx ends.
//
// The poller forgets what it knew before Read, and some of what it knew cannot
// be seen in the epoll descriptor any more; so done is called inside, where news
// that come while it looks are kept.
func (w *watcher) until(ctx context.Context, done func() (bool, error)) error {
	stop := context.AfterFunc(ctx, func() { w.epoll.SetReadDeadline(time.Now()) })
	defer stop()
	var ok bool
	var err error
	e := w.raw.Read(func(epoll uintptr) bool {
		w.drain(int(epoll))
		ok, err = done()
		return ok || err != nil
	})
	switch {
	case ok || err != nil:
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return e
}

// drain takes the news, which would wake us again.
func (w *watcher) drain(epoll int) {
	var events [4]unix.EpollEvent // of four descriptors at most
	unix.EpollWait(epoll, events[:], 0)
	var b [4096]byte
	if w.clock >= 0 {
		unix.Read(w.clock, b[:]) // nothing is to be learnt of the count
	}
	for w.inotify >= 0 {
		if n, err := unix.Read(w.inotify, b[:]); n <= 0 && err != unix.EINTR {
			return
		}
	}
}
