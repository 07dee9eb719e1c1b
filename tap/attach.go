package tap

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// flagsPlain are those of a device whose frames have nothing before them.
const flagsPlain = unix.IFF_TAP | unix.IFF_NO_PI

// whyOff is Features.Why of a device that nobody wants offloads of.
const whyOff = "switched off by --offload=off"

// Attach makes f, which is Path opened by somebody in the network namespace that
// is meant, the TAP device called name; it differs from Open in that the caller
// need not be in that namespace, only capable of CAP_NET_ADMIN over it. f stays
// the caller's, and is non-blocking afterwards, though the runtime does not poll
// it: that needs a new file of the descriptor.
func Attach(f *os.File, name string, offload Offload) (Features, error) {
	if err := checkName(name); err != nil {
		return Features{}, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return Features{}, err
	}
	var features Features
	controlErr := raw.Control(func(fd uintptr) {
		if features, err = attach(int(fd), name, offload); err == nil {
			err = os.NewSyscallError("fcntl", unix.SetNonblock(int(fd), true))
		}
	})
	return features, errors.Join(controlErr, err)
}

// attach does the work of Attach on a descriptor, which cannot be opened anew for
// each attempt, as Open does.
func attach(fd int, name string, offload Offload) (Features, error) {
	if offload == OffloadOff {
		return attachPlain(fd, name, whyOff)
	}
	err := create(fd, name, flagsPlain|unix.IFF_VNET_HDR)
	if err != nil && (offload == OffloadOn || !refusedOffload(err)) {
		return Features{}, err
	}
	if err != nil {
		return attachPlain(fd, name, err.Error())
	}
	features, err := negotiate(fd, name)
	if err != nil && offload == OffloadAuto && refusedOffload(err) {
		return headerOnly(fd, name, err.Error()) // too late for a plain one
	}
	return features, err
}

// attachPlain makes a device without a header. why says why.
func attachPlain(fd int, name, why string) (Features, error) {
	if err := create(fd, name, flagsPlain); err != nil {
		return Features{}, err
	}
	return Features{Why: why}, resetOffloads(fd, name)
}

// headerOnly switches off all that a device with a header could do. why says why.
func headerOnly(fd int, name, why string) (Features, error) {
	if err := resetOffloads(fd, name); err != nil {
		return Features{}, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, HeaderLen); err != nil {
		return Features{}, openError("set header length of "+name, err)
	}
	return Features{Header: true, Why: why}, nil
}

// resetOffloads switches offloads off. A persistent device has those that its
// last user set, and would give us superframes without saying so.
func resetOffloads(fd int, name string) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return openError("reset offloads of "+name, err)
	}
	return nil
}

// Refused returns the error of somebody who could not open Path, with what helps.
func Refused(err error) error { return openError("open "+Path, err) }
