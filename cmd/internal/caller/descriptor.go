package caller

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// A Descriptor is one that the command line names by its number. The zero value
// is none.
type Descriptor struct {
	number int
	named  bool
	open   bool
}

// Take returns the descriptor with a number, and keeps it from the processes
// that we start: one with a copy of it would keep its other end waiting.
//
// Descriptors that the Go runtime and we have opened do not count: those are
// closed on exec, so that nothing inherited looks like them. Each number may be
// taken once, and before Seal.
func Take(number int) Descriptor {
	d := Descriptor{number: number, named: true}
	if number < 0 || number > math.MaxInt32 {
		return d
	}
	flags, err := unix.FcntlInt(uintptr(number), unix.F_GETFD, 0)
	if d.open = err == nil && flags&unix.FD_CLOEXEC == 0; d.open {
		unix.CloseOnExec(number)
	}
	return d
}

// Seal keeps all other descriptors that the caller left open, beyond standard
// error, from the processes that we start. It needs Linux 5.11; without it they
// stay open longer than needed.
func Seal() {
	const first = 3
	_ = unix.CloseRange(first, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// Open tells whether the caller has passed the descriptor.
func (d Descriptor) Open() bool { return d.open }

// File returns the descriptor as a file, which owns it then.
func (d Descriptor) File() (*os.File, error) {
	if !d.open {
		return nil, fmt.Errorf("descriptor %d: %w", d.number, unix.EBADF)
	}
	return os.NewFile(uintptr(d.number), fmt.Sprintf("descriptor %d", d.number)), nil
}

// Ready tells the caller that what it waits for is done: it writes the byte "1"
// and closes the descriptor. A caller that is gone, or has passed none, is not
// told.
func (d Descriptor) Ready() {
	if d.open {
		_, _ = unix.Write(d.number, []byte("1"))
		_ = unix.Close(d.number)
	}
}

// HungUp waits for the other end to be closed, and returns true then; what is
// written there does not matter. A descriptor that was named and not passed
// counts as one that has hung up, as poll(2) has it. HungUp returns false when
// ctx ends, and at once if none was named.
func (d Descriptor) HungUp(ctx context.Context) bool {
	if !d.open {
		return d.named
	}
	r, w, err := os.Pipe()
	if err != nil {
		return false // out of descriptors: as if it never happened
	}
	defer r.Close()
	defer w.Close()
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	polled := []unix.PollFd{{Fd: int32(d.number)}, {Fd: int32(r.Fd())}}
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
