package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"taproot/tap"
	"taproot/userns"
)

// A deviceSpec is how the stage opens the device, and what came of it.
type deviceSpec struct {
	Offload  tap.Offload
	Features tap.Features
}

// StageMain is the whole of the stage's process: it opens the TAP device inside
// the guest, passes it out and becomes the command. It returns the process's
// exit status if it did not.
func StageMain() int { return userns.Stage(openDevice) }

// openDevice implements userns.Opener.
func openDevice(name string, request json.RawMessage) (*os.File, json.RawMessage, error) {
	var d deviceSpec
	if err := json.Unmarshal(request, &d); err != nil {
		return nil, nil, fmt.Errorf("device %s: %w", name, err)
	}
	f, features, err := tap.Open(name, d.Offload)
	if err != nil {
		return nil, nil, err
	}
	d.Features = features
	report, err := json.Marshal(d)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, report, nil
}

// openInherited takes a device that somebody else opened. The descriptor is a
// new one of the same device.
func openInherited(f *os.File, o tap.Offload) (*os.File, deviceSpec, error) {
	features, err := tap.Inherit(f, o)
	if err != nil {
		return nil, deviceSpec{}, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, deviceSpec{}, err
	}
	fd := -1
	controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(controlErr, err); err != nil {
		return nil, deviceSpec{}, fmt.Errorf("device: %w", err)
	}
	return os.NewFile(uintptr(fd), "device"), deviceSpec{Features: features}, nil
}
