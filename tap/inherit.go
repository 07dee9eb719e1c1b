package tap

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Inherit prepares a device that somebody else has opened and attached, and
// finds out its features; no capability is needed for that. f stays the
// caller's; its descriptor, and every other of the same open file, is
// non-blocking afterwards.
//
// Whether there is a virtio-net header was decided when it was attached: without
// one there are no offloads, and OffloadOn is an error. With one, OffloadOff
// switches off all but the header. The device must have been attached with
// IFF_NO_PI: the kernel does not tell, as that bit has another meaning too in
// its answer (IFF_NOFILTER).
//
// f may also be a connected SEQPACKET socket, of which each packet is a frame
// (BESS's vport, for one). That is a plain device.
func Inherit(f *os.File, offload Offload) (Features, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return Features{}, err
	}
	var features Features
	controlErr := raw.Control(func(fd uintptr) { features, err = inherit(int(fd), f.Name(), offload) })
	if err == nil && !features.Header && offload == OffloadOn {
		err = &OpenError{Op: "inherit " + f.Name(), Err: errors.New(features.Why)}
	}
	return features, errors.Join(controlErr, err)
}

// inherit does the work of Inherit on a descriptor.
func inherit(fd int, name string, offload Offload) (Features, error) {
	op := fmt.Sprintf("inherit descriptor %d", fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return Features{}, openError(op, err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err == nil && kind == unix.SOCK_SEQPACKET:
		return Features{Why: "a socket has no offloads"}, nil
	case err == nil:
		return Features{}, openError(op+": socket", unix.EPROTOTYPE)
	}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return Features{}, openError(op, err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return Features{}, openError(op+": not an attached TAP device", err)
	}
	flags := ifr.Uint16()
	switch {
	case flags&unix.IFF_TAP == 0:
		return Features{}, openError(op+": a TUN device, want TAP", unix.EINVAL)
	case flags&unix.IFF_VNET_HDR != 0 && offload != OffloadOff:
		return negotiate(fd, name)
	}
	if flags&unix.IFF_VNET_HDR == 0 {
		return Features{Why: "opened without a virtio-net header"}, resetOffloads(fd, name)
	}
	return headerOnly(fd, name, whyOff)
}
