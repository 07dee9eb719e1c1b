package engine

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"taproot/tap"
	"taproot/userns"
)

// StageMain is the whole of the stage's process: it sets up what is the guest's
// own but for the network, and becomes the command. It returns the process's
// exit status if it did not.
func StageMain() int { return userns.Stage() }

// A tapDevice is the guest's TAP device, a userns.Device.
type tapDevice struct {
	offload  tap.Offload
	features tap.Features // once it is attached
}

// Path implements userns.Device.
func (d *tapDevice) Path() string { return tap.Path }

// A device that is busy is tried again for handOverTime: who has it may be on the
// way out, as the engine of a supervisor that was killed a moment ago.
const (
	handOverTime  = time.Second
	handOverPause = 10 * time.Millisecond
)

// Attach implements userns.Device.
func (d *tapDevice) Attach(f *os.File, name string) (err error) {
	for end := time.Now().Add(handOverTime); ; time.Sleep(handOverPause) {
		d.features, err = tap.Attach(f, name, d.offload)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// Refused implements userns.Device.
func (d *tapDevice) Refused(err error) error { return tap.Refused(err) }

// openInherited takes a device that somebody else opened. The descriptor is a
// new one of the same device.
func openInherited(f *os.File, o tap.Offload) (*os.File, tap.Features, error) {
	features, err := tap.Inherit(f, o)
	if err != nil {
		return nil, tap.Features{}, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, tap.Features{}, err
	}
	fd := -1
	controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(controlErr, err); err != nil {
		return nil, tap.Features{}, fmt.Errorf("device: %w", err)
	}
	// Blocking as long as the file is made: the runtime would wake us for each
	// frame that the engine reads, which makes it non-blocking again.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, tap.Features{}, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "device"), features, nil
}
