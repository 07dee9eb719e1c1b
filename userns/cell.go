package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Cell is where a process of ours is locked up that reads what the guest
// sends. The process is born in it: all of this is done between clone and exec,
// by system calls of a child that does not run Go (see fork), so that there is
// no moment at which the program could do more than later.
//
// Always: a session of its own, so that no signal of a terminal gets there and it has
// no /dev/tty; no descriptor but those of Files, no capability in any set, no_new_privs, and death with the
// thread that started it. How much of the rest is possible depends on the machine;
// what was refused is a *CellError, and nothing runs then.
type Cell struct {
	// Program is executed, which SelfProgram opens. If it needs other files to
	// start, it does not start with Root.
	Program *os.File

	// Args and Env are the program's, Args[0] its name.
	Args, Env []string

	// Files are its descriptors 0, 1, 2 and so on, maxCellFiles at most. They stay
	// the caller's.
	Files []*os.File

	// Namespaces gives it user, mount, PID, IPC, UTS and cgroup namespaces of
	// its own. The network namespace stays, whose sockets it uses. In its user
	// namespace there is nobody but the caller's user.
	Namespaces bool

	// Root gives it an empty root directory, read-only and without /proc. It
	// needs Namespaces.
	Root bool
}

// maxCellFiles is how many descriptors a cell's process can be given.
const maxCellFiles = 8

// A CellError is a step that was refused on the way into a cell. What it wraps
// is a syscall.Errno.
type CellError struct {
	// Step is what was refused, as "pivot_root".
	Step string

	// Namespaces and Root tell what the step was for; neither is set for what every
	// cell needs. Exec of a program that is not static is for Root.
	Namespaces, Root bool

	Err error
}

// Error returns the step and the cause.
func (e *CellError) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns the system call's error.
func (e *CellError) Unwrap() error { return e.Err }

// Hint returns what the user can do to have namespaces, or "".
func (e *CellError) Hint() string {
	if !e.Namespaces && !e.Root {
		return ""
	}
	return NamespaceHint(e.Err)
}

// NotStatic tells whether the step was to execute a program that has no root
// directory to find its dynamic linker in (ENOENT, execve(2)).
func (e *CellError) NotStatic() bool {
	return e.Root && e.Step == stepNames[stepExec]
}

// SelfProgram opens the program that runs, even if its file was replaced.
func SelfProgram() (*os.File, error) {
	fd, err := unix.Open(selfExe, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: selfExe, Err: err}
	}
	return os.NewFile(uintptr(fd), selfExe), nil
}

// Start starts the process and returns when it has executed its program. The
// caller must have locked its thread, at the end of which the process is killed,
// and waits for the process.
func (c *Cell) Start() (*os.Process, error) {
	if len(c.Files) > maxCellFiles || len(c.Args) == 0 || c.Root && !c.Namespaces {
		return nil, fmt.Errorf("cell: %w", syscall.EINVAL)
	}
	var report [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	told := os.NewFile(uintptr(report[0]), "cell")
	defer told.Close()
	pid, err := c.fork(report[1])
	unix.Close(report[1])
	if err != nil {
		return nil, &CellError{Step: "clone", Namespaces: c.Namespaces, Err: errors.Unwrap(err)}
	}
	var packet [noticeSize]byte
	if _, err := io.ReadFull(told, packet[:]); err == nil {
		awaitChild(pid)
		return nil, newCellError(noticed(packet[:]))
	}
	return os.FindProcess(pid) // which is our child: the number is not given away
}

// fork starts the child, which tells its trouble on a descriptor.
func (c *Cell) fork(report int) (pid int, err error) {
	i, err := newInmate(c, report)
	if err != nil {
		return 0, os.NewSyscallError("prepare", err)
	}
	defer runtime.KeepAlive(i)
	return fork(i.clone)
}

// awaitChild reaps a child that ends.
func awaitChild(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return
		}
	}
}

// newCellError returns what a child has told.
func newCellError(err error) error {
	var t *trouble
	if !errors.As(err, &t) || int(t.step) >= len(stepNames) {
		return fmt.Errorf("cell: %w", err)
	}
	e := &CellError{Step: stepNames[t.step], Err: t.errno}
	switch t.step {
	case stepMap:
		e.Namespaces = true
	case stepPrivate, stepTmpfs, stepPivot, stepDetach:
		e.Root = true
	case stepExec: // ENOENT is the dynamic linker's
		e.Root = t.errno == syscall.ENOENT
	}
	return e
}
