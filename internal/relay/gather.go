package relay

import (
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A way that has moved much while nothing came back gathers: its loop is told of
// bytes only when gatherSize have come together (SO_RCVLOWAT, socket(7)), or the
// source ends, and looks for itself every gatherTime. Fewer and larger turns
// acknowledge less often and wake fewer: a flow alone costs 0.16 s of processor
// per GB instead of 0.22. Of eight, most turns are large without it.
const (
	// gatherSize is in bytes. Half as much costs a tenth more of the processor. Twice as
	// much is half of what a socket inside holds: who writes there waits for us then.
	gatherSize = 512 << 10

	// gatherTime is how long the end of what was sent may wait.
	gatherTime = 2 * time.Millisecond

	// gatherAfter is what a way must have moved, in bytes, since the other way
	// moved anything: whoever waits for an answer waits for gatherTime in
	// vain, which is little beside the time that so much takes.
	gatherAfter = 16 << 20

	// gatherIdle is how often in turn the loop finds nothing before the way gathers
	// no more. Where eight flows share a processor each has such gaps.
	gatherIdle = 8
)

// moved counts what was written. Where bytes go both ways, somebody may be waiting.
func (l *loop) moved(w *way, n int) {
	w.count.Add(int64(n))
	w.run += int64(n)
	back := &w.joint.ways[1-w.side]
	back.run = 0
	l.hasten(back)
}

// gather makes a way gather that has just found nothing, if it has moved much.
func (l *loop) gather(w *way) {
	if w.gathers || w.run < gatherAfter {
		return
	}
	if setLowWater(w.source().fd, gatherSize) != nil {
		w.run = 0
		return
	}
	w.gathers, w.mark, w.idle = true, w.run, 0
	if l.gathering = append(l.gathering, w); len(l.gathering) == 1 {
		l.startClock()
	}
}

// hasten makes a way that gathers hear of every byte again. What is there already
// is told at once.
func (l *loop) hasten(w *way) {
	if w.gathers {
		l.forget(w)
		_ = setLowWater(w.source().fd, 1) // fails only for what is no socket
	}
}

// forget makes a way gather no more whose source nobody reads again.
func (l *loop) forget(w *way) {
	if w.gathers {
		w.gathers, w.run = false, 0
		l.gathering = slices.DeleteFunc(l.gathering, func(v *way) bool { return v == w })
	}
}

// tick serves the ways that gather.
func (l *loop) tick() {
	for _, w := range slices.Clone(l.gathering) {
		if w.run > w.mark {
			w.idle = 0
		} else if w.idle++; w.idle > gatherIdle {
			l.hasten(w)
			continue
		}
		w.mark, w.readable = w.run, true
		l.begin(w)
	}
	if len(l.gathering) > 0 {
		l.startClock()
	}
}

// startClock makes the clock's next event.
func (l *loop) startClock() {
	once := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(gatherTime))}
	_, _, _ = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(l.clock), 0, uintptr(unsafe.Pointer(&once)), 0, 0, 0)
}

// setLowWater sets how many bytes make a socket readable.
func setLowWater(fd int32, n int32) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, uintptr(unsafe.Pointer(&n)), unsafe.Sizeof(n), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
