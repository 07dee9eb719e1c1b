package nat

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A poller waits for many sockets in one goroutine. It is an epoll descriptor
// which the runtime's own poller watches in turn, so that waiting costs no
// thread, and an idle socket neither a goroutine nor a buffer.
type poller struct {
	file   *os.File
	raw    syscall.RawConn
	events [64]unix.EpollEvent // belongs to who calls wait
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile gives to the runtime's poller only what is non-blocking.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll")}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// add makes wait report id when s has messages or errors. It ends when s is
// closed.
func (p *poller) add(s *socket, id uint64) error {
	// Level-triggered, so that one busy socket may be left for another before
	// it is empty.
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(id), Pad: int32(id >> 32)}
	var err error
	if e := p.raw.Control(func(fd uintptr) {
		err = unix.EpollCtl(int(fd), unix.EPOLL_CTL_ADD, s.fd, &event)
	}); e != nil {
		return e
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// A readiness is what wait reports of one socket.
type readiness struct {
	id     uint64
	failed bool // an error is pending or in the error queue
}

// wait blocks until sockets are ready and appends them to ready. It returns an
// error when the poller is closed.
func (p *poller) wait(ready []readiness) ([]readiness, error) {
	var n int
	var errno syscall.Errno
	// The runtime clears its note of readiness before it calls us, so a wake-up
	// that comes after our look is not lost.
	err := p.raw.Read(func(fd uintptr) bool {
		n, errno = p.look(fd)
		return n > 0 || errno != 0
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return ready, fmt.Errorf("wait for sockets: %w", err)
	}
	for _, e := range p.events[:n] {
		id := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
		ready = append(ready, readiness{id, e.Events&unix.EPOLLERR != 0})
	}
	return ready, nil
}

// look asks for events without waiting, so it may be a raw system call. It is
// epoll_pwait because not every architecture has epoll_wait.
func (p *poller) look(fd uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&p.events[0])),
			uintptr(len(p.events)), 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// close makes wait return.
func (p *poller) close() error { return p.file.Close() }
