package userns

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A title is what ps(1) shows as a process's arguments. The kernel takes them
// from the process's memory, so a fork has its parent's until it writes there:
// without that, the guard could not be told from the supervisor.
type title struct {
	text   []byte // as long as the arguments were
	local  unix.Iovec
	remote unix.RemoteIovec
}

// prepare finds the memory of the arguments. If that fails, write does nothing.
func (t *title) prepare(text string) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return
	}
	start, end := argumentsIn(stat)
	if start == 0 || end <= start {
		return
	}
	t.text = make([]byte, end-start)
	copy(t.text[:len(t.text)-1], text)
	t.local.Base = &t.text[0]
	t.local.SetLen(len(t.text))
	t.remote = unix.RemoteIovec{Base: start, Len: len(t.text)}
}

// argumentsIn returns the fields arg_start and arg_end of a /proc/PID/stat
// (proc_pid_stat(5), fields 48 and 49), or zeros.
func argumentsIn(stat []byte) (start, end uintptr) {
	// The second field, a name in parentheses, may hold anything.
	i := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[i+1:]) // from the third on
	const argStart, argEnd = 48 - 3, 49 - 3
	if len(fields) <= argEnd {
		return 0, 0
	}
	s, err1 := strconv.ParseUint(string(fields[argStart]), 10, strconv.IntSize)
	e, err2 := strconv.ParseUint(string(fields[argEnd]), 10, strconv.IntSize)
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	return uintptr(s), uintptr(e)
}

// write replaces this process's arguments. The memory is not Go's, so the
// kernel writes it.
//
//go:nosplit
//go:norace
func (t *title) write() {
	pid, _, _ := syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_PROCESS_VM_WRITEV, pid, uintptr(unsafe.Pointer(&t.local)), 1,
		uintptr(unsafe.Pointer(&t.remote)), 1, 0)
}
