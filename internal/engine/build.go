package engine

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"taproot/userns"
)

// A build is a program that engines are made of. nil is our own.
type build struct {
	path string // as it was asked for
	file *os.File

	handover atomic.Int32 // the handoverFormat of its engines
}

// learn notes the handoverFormat that an engine of the program has told of.
func (b *build) learn(format int) {
	if b != nil {
		b.handover.Store(int32(format))
	}
}

// hands returns the handoverFormat of its engines, 0 if it is not known.
func (b *build) hands() int {
	if b == nil {
		return handoverFormat
	}
	return int(b.handover.Load())
}

// openBinary opens a program that others cannot have put or changed there. What is
// checked is what is executed, whatever becomes of the path.
func openBinary(path string) (*build, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	b := &build{path: path, file: os.NewFile(uintptr(fd), path)}
	if err := b.check(fd); err != nil {
		b.file.Close()
		return nil, &os.PathError{Op: "execute", Path: path, Err: err}
	}
	return b, nil
}

// Reasons for a program not to become an engine.
var (
	errNoProgram     = errors.New("not a regular file")
	errForeignBinary = errors.New("it belongs to another user")
	errOpenBinary    = errors.New("others may write to it")
)

// check returns what is wrong with a program.
func (b *build) check(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errNoProgram
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return errForeignBinary
	case st.Mode&unix.S_IWOTH != 0:
		return errOpenBinary
	}
	return unix.Access(executable(fd), unix.X_OK)
}

// executable is the path of an open program, in whoever has it.
func executable(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// open opens what is executed.
func (b *build) open() (*os.File, error) {
	if b == nil {
		return userns.SelfProgram()
	}
	fd, err := unix.FcntlInt(b.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), b.path), nil
}

// String returns the path, "" for our own program.
func (b *build) String() string {
	if b == nil {
		return ""
	}
	return b.path
}

// closeUnless closes the program, which is needed no more, unless other is the same.
func (b *build) closeUnless(other *build) {
	if b != nil && b != other {
		b.file.Close()
	}
}
