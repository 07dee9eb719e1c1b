package userns

import (
	"bytes"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxSpans is how many pieces of memory a ballast has: a program of ours has
	// about ten. What is beyond stays.
	maxSpans = 32

	// maxSpan is the longest piece, in bytes. What is longer is no memory of a Go
	// program, but the race detector's.
	maxSpan = 1 << 30
)

// A ballast is the memory that a child of ours (see fork) has from its parent and does
// not need: what Go's heap and runtime were at the fork. Whatever the parent writes to
// after that, the kernel copies, and the child keeps what was there, of more than a
// megabyte in the end. So a child that lives long drops it.
type ballast struct {
	page  uintptr // bytes of one
	count uintptr
	spans [maxSpans]span
}

// A span is memory from one address to the one before another.
type span struct{ start, end uintptr }

// newBallast finds this process's own writable memory that no file is behind. Without
// proc(5) it is empty.
func newBallast() (b ballast) {
	b.page = uintptr(os.Getpagesize())
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return b
	}
	for line := range bytes.Lines(maps) {
		if s, ok := anonymous(line); ok && b.count < maxSpans {
			b.spans[b.count] = s
			b.count++
		}
	}
	return b
}

// anonymous returns the memory of a line of /proc/PID/maps (proc_pid_maps(5)); false
// if it is not private, writable and without a file, or longer than maxSpan.
func anonymous(line []byte) (s span, ok bool) {
	// address perms offset device inode, and a name, if there is one.
	fields := bytes.Fields(line)
	if len(fields) < 5 || string(fields[1]) != "rw-p" || len(fields) > 5 && !bytes.HasPrefix(fields[5], []byte("[anon:")) {
		return span{}, false
	}
	first, last, ok := bytes.Cut(fields[0], []byte("-"))
	start, err1 := strconv.ParseUint(string(first), 16, strconv.IntSize)
	end, err2 := strconv.ParseUint(string(last), 16, strconv.IntSize)
	if !ok || err1 != nil || err2 != nil || end <= start || end-start > maxSpan {
		return span{}, false
	}
	return span{uintptr(start), uintptr(end)}, true
}

// drop gives the memory back, but for the pages of two pieces that the child goes on
// with. See fork for the rules.
//
//go:nosplit
//go:norace
func (b *ballast) drop(low, high span) {
	if low.start > high.start {
		low, high = high, low
	}
	low.start, high.start = low.start&^(b.page-1), high.start&^(b.page-1)
	low.end, high.end = (low.end+b.page-1)&^(b.page-1), (high.end+b.page-1)&^(b.page-1)
	for i := range b.spans {
		if uintptr(i) >= b.count {
			return
		}
		s := b.spans[i]
		dropBetween(s.start, min(s.end, low.start))
		dropBetween(max(s.start, low.end), min(s.end, high.start))
		dropBetween(max(s.start, low.end, high.end), s.end)
	}
}

// dropBetween gives pages back, if there are any.
//
//go:nosplit
//go:norace
func dropBetween(start, end uintptr) {
	if start < end {
		syscall.RawSyscall(syscall.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
	}
}
