package relay

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of vigils.
const (
	// composure is how many times in turn a loop must have been woken for little
	// before it keeps vigil.
	composure = 256

	// little is how much a message may have that is little, in bytes, and few how
	// many events one wake-up may bring.
	little = 2 << 10
	few    = 2

	// vigilTime is how long a loop waits by itself, in ms. Who pauses for longer
	// does not feel how it is woken.
	vigilTime = 10
)

// A vigil is how a loop waits while nothing but small messages goes to and fro: in
// a system call of its own, not in the runtime's poller, which watches the loop's
// epoll descriptor by one of its own. Each of them comes back sooner and takes less
// of the processor so, as one thing less is woken for it. Beside anything else it
// would wake the loop too often: bulk is better for some delay.
//
// The runtime gets one more processor meanwhile, since the thread that waits keeps
// one until that is taken from it, and nobody else would ask the poller.
type vigil struct {
	occupied func(change int) // see MoverConfig; nil: there are none

	calm  int  // wake-ups in turn that brought little
	keeps bool // the loop waits by itself

	// stirred says that there was something else than little. It may be set
	// by anybody.
	stirred atomic.Bool
}

// stir ends the vigil, when the loop is about to wait again.
func (v *vigil) stir() {
	if v.occupied != nil && !v.stirred.Load() {
		v.stirred.Store(true)
	}
}

// watch tells whether the loop is to wait by itself, after it was woken for n
// events, none if it was not.
func (v *vigil) watch(n int) bool {
	switch {
	case v.occupied == nil:
		return false
	case n == 0 || n > few || v.stirred.Load():
		v.calm = 0
		v.stirred.Store(false)
	default:
		v.calm++
	}
	v.keep(v.calm >= composure)
	return v.keeps
}

// keep begins or ends a vigil.
func (v *vigil) keep(on bool) {
	switch {
	case on == v.keeps:
		return
	case on:
		v.occupied(1)
	default:
		v.occupied(-1)
	}
	v.keeps = on
}

// wait fetches events, for which it waits. The runtime may take the thread's
// processor meanwhile.
func (v *vigil) wait(epoll int, events []unix.EpollEvent) (int, syscall.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), vigilTime, 0, 0)
	return int(n), errno
}
