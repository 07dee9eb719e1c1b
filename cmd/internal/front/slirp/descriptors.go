package slirp

import (
	"context"
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// firstFD is the first descriptor after standard error.
const firstFD = 3

// notOpen stands for a descriptor that the caller named but did not pass.
const notOpen = -2

// inherited reports whether fd came from the caller. What the Go runtime opens
// before us is closed on exec, so that nothing inherited looks like it.
func inherited(fd int) bool {
	if fd < 0 || fd > math.MaxInt32 {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// takeDescriptors notes which of the descriptors named are there, and keeps all
// from the processes that we start: one with a copy of the ready descriptor
// would keep its other end waiting.
func (o *options) takeDescriptors() {
	for _, fd := range []*int{&o.exitFD, &o.readyFD, &o.tapFD} {
		if *fd >= 0 && !inherited(*fd) {
			*fd = notOpen
		}
		if *fd >= 0 {
			unix.CloseOnExec(*fd)
		}
	}
	// Without this call (Linux 5.11), others' descriptors that the caller left
	// open stay open longer than needed.
	_ = unix.CloseRange(firstFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// ready tells the caller that the network works. A caller that is gone, or
// passed no descriptor, is not told.
func (o *options) ready() {
	if o.readyFD < 0 {
		return
	}
	_, _ = unix.Write(o.readyFD, []byte("1"))
	_ = unix.Close(o.readyFD)
	o.readyFD = -1
}

// hungUp waits for the exit descriptor to hang up. It returns false when ctx
// ends, or if there is no such descriptor.
func (o *options) hungUp(ctx context.Context) bool {
	switch {
	case o.exitFD == notOpen:
		return true // as poll(2) says it
	case o.exitFD < 0:
		return false
	}
	r, w, err := os.Pipe()
	if err != nil {
		return false // out of descriptors: as if it never happened
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer func() {
		if stop() {
			w.Close()
		}
	}()
	polled := []unix.PollFd{{Fd: int32(o.exitFD)}, {Fd: int32(r.Fd())}}
	for {
		_, err := unix.Poll(polled, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || polled[1].Revents != 0:
			return false
		case polled[0].Revents != 0:
			return true
		}
	}
}
