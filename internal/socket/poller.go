package socket

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Poller waits for many sockets in one goroutine. It is an epoll descriptor
// which the runtime's own poller watches in turn, so that waiting costs no
// thread, and an idle socket neither a goroutine nor a buffer. Add and Remove
// may be called from several goroutines, Serve or Wait from one.
type Poller struct {
	file   *os.File
	raw    syscall.RawConn
	turn   *Turn
	closed atomic.Bool
	events [64]unix.EpollEvent // belongs to who calls Serve or Wait
}

// NewPoller returns a Poller without sockets.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile gives to the runtime's poller only what is non-blocking.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &Poller{file: os.NewFile(uintptr(fd), "epoll")}
	p.raw, err = p.file.SyscallConn()
	if err == nil {
		p.turn, err = NewTurn()
	}
	if err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

// Add makes Wait report id whenever fd is readable, until it has been read
// empty: level-triggered, so that one busy socket may be left for another.
func (p *Poller) Add(fd int, id uint64) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(id), Pad: int32(id >> 32)}
	return p.control(unix.EPOLL_CTL_ADD, fd, &event)
}

// AddConnecting makes Wait report id when the connection that fd is about to
// make is there or has failed, and from then on until Remove.
func (p *Poller) AddConnecting(fd int, id uint64) error {
	event := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(id), Pad: int32(id >> 32)}
	return p.control(unix.EPOLL_CTL_ADD, fd, &event)
}

// Remove ends what Add began, as the end of the socket does. It comes before fd
// is closed if another process has the socket too: epoll watches sockets, not
// descriptors.
func (p *Poller) Remove(fd int) error { return p.control(unix.EPOLL_CTL_DEL, fd, nil) }

func (p *Poller) control(op, fd int, event *unix.EpollEvent) error {
	var err error
	if e := p.raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, event) }); e != nil {
		return e
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// A Readiness is what Wait reports of one socket.
type Readiness struct {
	ID     uint64
	Failed bool // an error is pending or in the error queue
}

// Wait blocks until sockets are ready and appends them to ready. It returns an
// error when the Poller is closed.
//
// Where there are always some, the other goroutines have a turn in between: on
// one processor the guest's device would be read only once all sockets are
// empty, and a burst of 1,000 flows' requests overrun a server's buffer (0.04 to
// 0.4 % lost; with turns none).
func (p *Poller) Wait(ready []Readiness) ([]Readiness, error) {
	var n, looks int
	var errno syscall.Errno
	// The runtime clears its note of readiness before it calls us, so a wake-up
	// that comes after our look is not lost.
	err := p.raw.Read(func(fd uintptr) bool {
		looks++
		n, errno = p.look(fd)
		return n > 0 || errno != 0
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return ready, fmt.Errorf("wait for sockets: %w", err)
	}
	if looks == 1 {
		p.turn.Yield()
	}
	for i := range p.events[:n] {
		ready = append(ready, readiness(&p.events[i]))
	}
	return ready, nil
}

// readiness is what an event says.
func readiness(e *unix.EpollEvent) Readiness {
	id := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
	return Readiness{id, e.Events&unix.EPOLLERR != 0}
}

// Serve calls serve for each socket that is ready, until the Poller is closed,
// which is the error. serve returns true if it left something to be read; the
// socket is then reported again, after the others. What it has read empty it may
// forget, for whatever arrives from then on reports the socket again.
//
// So Serve looks once for each time that it is woken, where Wait looks once
// more, in vain. Where there is always something, the other goroutines have
// their turn as with Wait.
func (p *Poller) Serve(serve func(Readiness) (more bool)) error {
	var errno syscall.Errno
	// A wake-up that comes while we serve is kept for us: the runtime clears its
	// note of readiness when we wait, and the kernel makes a new one for
	// each message.
	err := p.raw.Read(func(fd uintptr) bool {
		for !p.closed.Load() {
			var n int
			if n, errno = p.look(fd); errno != 0 {
				return true
			}
			more := n == len(p.events)
			for i := range p.events[:n] {
				more = serve(readiness(&p.events[i])) || more
			}
			if !more {
				return false
			}
			p.turn.Yield()
		}
		return false
	})
	if err == nil {
		err = errno
	}
	return fmt.Errorf("wait for sockets: %w", err)
}

// look asks for events without waiting. It is epoll_pwait because not every
// architecture has epoll_wait.
func (p *Poller) look(fd uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&p.events[0])),
			uintptr(len(p.events)), 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// Close makes Serve and Wait return.
func (p *Poller) Close() error {
	p.closed.Store(true)
	p.turn.Close()
	return p.file.Close()
}
