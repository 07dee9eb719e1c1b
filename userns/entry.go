package userns

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// none is the descriptor of a namespace that is not entered.
const none = ^uintptr(0)

// A step is one thing that a child does on its way into namespaces.
type step uint8

// The steps, in order. stepOpen comes once for each file, those from stepSocket
// to stepListen once for each socket.
const (
	stepUser step = iota
	stepNet
	stepOpen
	stepSocket
	stepOption
	stepBind
	stepListen
	stepSend

	// Those of a Cell.
	stepFiles
	stepMap
	stepPrivate
	stepTmpfs
	stepPivot
	stepDetach
	stepCaps
	stepExec

	// Those of a mounter.
	stepMounts
	stepCopy
	stepWrite
	stepTree
	stepMove
)

var stepNames = [...]string{
	stepUser:   "join user namespace",
	stepNet:    "join network namespace",
	stepOpen:   "open",
	stepSocket: "socket",
	stepOption: "setsockopt",
	stepBind:   "bind",
	stepListen: "listen",
	stepSend:   "send descriptors",

	stepFiles:   "keep descriptors",
	stepMap:     "map ids",
	stepPrivate: "make mounts private",
	stepTmpfs:   "mount tmpfs",
	stepPivot:   "pivot_root",
	stepDetach:  "detach the old root",
	stepCaps:    "drop capabilities",
	stepExec:    "execveat",

	stepMounts: "join mount namespace",
	stepCopy:   "copy mount namespace",
	stepWrite:  "write",
	stepTree:   "open_tree",
	stepMove:   "move_mount",
}

// A trouble is the step that a child did not get over.
type trouble struct {
	step  step
	index int // of the file or socket
	errno syscall.Errno
}

func (t *trouble) Error() string {
	if int(t.step) >= len(stepNames) {
		return t.errno.Error()
	}
	return stepNames[t.step] + ": " + t.errno.Error()
}

// Unwrap returns the system call's error.
func (t *trouble) Unwrap() error { return t.errno }

// An entry is what a child of ours needs to go into namespaces. As a setns(2) to
// a user namespace is refused to a process with more than one thread, no Go
// program can do it; so the child is a fork as described at function fork, and
// makes raw system calls only, on memory that is laid out here.
type entry struct {
	user, net uintptr // descriptors of namespaces, or none
	socket    uintptr // where the child tells its trouble, and what became of it
	notice    notice
}

// A notice is a packet of a child that does not run Go. Its kind distinguishes
// it from the packets of a message, see wire.
type notice struct {
	kind  uint8 // packetTrouble or packetSockets
	step  step
	index uint16
	errno uint32
}

// noticeSize is the length of a notice in bytes.
const noticeSize = 8

// noticed returns the *trouble of a notice, or says that it is none.
func noticed(b []byte) error {
	if len(b) != noticeSize || b[0] != packetTrouble {
		return syscall.EPROTO
	}
	return &trouble{
		step:  step(b[1]),
		index: int(binary.NativeEndian.Uint16(b[2:])),
		errno: syscall.Errno(binary.NativeEndian.Uint32(b[4:])),
	}
}

// newEntry prepares the way into a namespace.
func (n *Namespace) newEntry(socket int) entry {
	e := entry{user: none, net: n.net.Fd(), socket: uintptr(socket)}
	if n.user != nil {
		e.user = n.user.Fd()
	}
	return e
}

// enter joins the namespaces: the user namespace first, in which it gets all
// capabilities, and with it the right to join the other.
//
// A guest's process that has all capabilities in there too, the same user, and
// the child in view, could trace it and so reach our memory and files. It cannot
// if the child is not dumpable: that asks for capabilities in the user namespace
// to which the child's memory belongs, and as nothing was executed since the
// fork, that is ours (ptrace(2)).
//
//go:nosplit
//go:norace
func (e *entry) enter() bool {
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0) // 0 cannot fail
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if e.user != none && !e.setns(e.user, unix.CLONE_NEWUSER, stepUser) {
		return false
	}
	return e.setns(e.net, unix.CLONE_NEWNET, stepNet)
}

//go:nosplit
//go:norace
func (e *entry) setns(fd, kind uintptr, s step) bool {
	_, _, errno := syscall.RawSyscall(unix.SYS_SETNS, fd, kind, 0)
	return errno == 0 || e.fail(s, 0, errno)
}

// fail tells trouble. It returns false.
//
//go:nosplit
//go:norace
func (e *entry) fail(s step, index int, errno syscall.Errno) bool {
	e.notice = notice{kind: packetTrouble, step: s, index: uint16(index), errno: uint32(errno)}
	syscall.RawSyscall(syscall.SYS_WRITE, e.socket, uintptr(unsafe.Pointer(&e.notice)), noticeSize)
	return false
}
