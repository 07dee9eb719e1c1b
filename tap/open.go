package tap

import (
	"errors"
	"fmt"
	"os"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// Path is the TUN driver's file, of which devices are made.
const Path = "/dev/net/tun"

// An Offload says how a device is opened.
type Offload uint8

// The ways to open a device.
const (
	OffloadAuto Offload = iota // with offloads, plain if the kernel refuses
	OffloadOn                  // with offloads, or not at all
	OffloadOff                 // plain
)

// ParseOffload reads "auto", "on" or "off".
func ParseOffload(s string) (Offload, error) {
	for o, name := range offloadNames {
		if s == name {
			return Offload(o), nil
		}
	}
	return 0, fmt.Errorf("offload %q: want auto, on or off", s)
}

// String returns the name that ParseOffload reads.
func (o Offload) String() string {
	if int(o) < len(offloadNames) {
		return offloadNames[o]
	}
	return "unknown"
}

var offloadNames = [...]string{"auto", "on", "off"}

// Features are what a device and its kernel agreed on.
type Features struct {
	Header   bool   // each frame has a virtio-net header
	Checksum bool   // checksums need not be filled in, either way
	TSO      bool   // TCP superframes, both families
	USO      bool   // UDP superframes, both families
	Why      string // why not all of it; "" when all
}

// An OpenError says why a device was not opened, and what helps.
type OpenError struct {
	Op   string // what was tried, with the path or the interface's name
	Err  error
	hint string
}

// Error returns the operation, its object and the cause.
func (e *OpenError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// Hint returns a command that removes the cause, or "".
func (e *OpenError) Hint() string { return e.hint }

// Open makes the TAP device called name in the calling thread's network
// namespace, where it needs CAP_NET_ADMIN, or attaches to the one that is there
// if nobody else is attached (ip-tuntap(8) makes persistent ones). The file is
// non-blocking and close-on-exec; the caller owns it. A device that is not
// persistent goes when the last descriptor of it is closed.
func Open(name string, offload Offload) (*os.File, Features, error) {
	if err := checkName(name); err != nil {
		return nil, Features{}, err
	}
	if offload == OffloadOff {
		f, err := openPlain(name)
		return f, Features{Why: whyOff}, err
	}
	f, features, err := openOffloaded(name)
	if err == nil || offload == OffloadOn || !refusedOffload(err) {
		return f, features, err
	}
	why := err.Error()
	f, err = openPlain(name)
	return f, Features{Why: why}, err
}

// checkName refuses names that are too long, which water would cut off.
func checkName(name string) error {
	if len(name) >= unix.IFNAMSIZ {
		return &OpenError{Op: "name interface " + name, Err: unix.EINVAL}
	}
	return nil
}

// refusedOffload tells whether the plain way may work where the other failed.
func refusedOffload(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP)
}

// openPlain makes the device through water, which neither sets close-on-exec
// nor makes the descriptor known to the poller.
func openPlain(name string) (*os.File, error) {
	params := water.PlatformSpecificParams{Name: name}
	ifce, err := water.New(water.Config{DeviceType: water.TAP, PlatformSpecificParams: params})
	if errors.Is(err, unix.EINVAL) { // see create
		params.MultiQueue = true
		var again error
		if ifce, again = water.New(water.Config{DeviceType: water.TAP, PlatformSpecificParams: params}); again == nil {
			err = nil
		}
	}
	if err != nil {
		return nil, openError("open "+Path+" for "+name, err)
	}
	defer ifce.Close()
	raw, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, &OpenError{Op: "open " + Path, Err: errors.New("water returned no file")}
	}
	fd, err := unix.FcntlInt(raw.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, openError("duplicate "+name, err)
	}
	if err := resetOffloads(fd, name); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return pollable(fd, name)
}

// openOffloaded makes the device with a virtio-net header and as many
// offloads as the kernel has.
func openOffloaded(name string) (*os.File, Features, error) {
	fd, err := unix.Open(Path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, Features{}, Refused(err)
	}
	features, err := setUp(fd, name)
	if err != nil {
		unix.Close(fd)
		return nil, Features{}, err
	}
	f, err := pollable(fd, name)
	return f, features, err
}

// setUp attaches fd to a device called name and negotiates its offloads.
func setUp(fd int, name string) (Features, error) {
	if err := create(fd, name, flagsPlain|unix.IFF_VNET_HDR); err != nil {
		return Features{}, err
	}
	return negotiate(fd, name)
}

// create makes the device called name, or attaches to it. We use one queue, but
// a persistent device that was made with IFF_MULTI_QUEUE must be attached to with
// it, and any other without (both EINVAL).
func create(fd int, name string, flags uint16) error {
	err := setInterface(fd, name, flags)
	if errors.Is(err, unix.EINVAL) && setInterface(fd, name, flags|unix.IFF_MULTI_QUEUE) == nil {
		err = nil
	}
	if err != nil {
		return openError("create "+name, err)
	}
	return nil
}

func setInterface(fd int, name string, flags uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

// negotiate sets the length of the header and asks for all offloads, then for those that older kernels have.
// UDP segmentation came with Linux 6.2.
func negotiate(fd int, name string) (Features, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, HeaderLen); err != nil {
		return Features{}, openError("set header length of "+name, err)
	}
	const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	const uso = unix.TUN_F_USO4 | unix.TUN_F_USO6
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso|uso) == nil {
		return Features{Header: true, Checksum: true, TSO: true, USO: true}, nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso); err != nil {
		return Features{}, openError("set offloads of "+name, err)
	}
	return Features{Header: true, Checksum: true, TSO: true, Why: "UDP segmentation offload needs Linux 6.2"}, nil
}

// pollable makes fd, which it takes over, a file that the runtime polls. The
// device must be attached: the poller learns nothing of what comes later.
func pollable(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, openError("set non-blocking "+name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openError adds what helps to an error of opening or creating a device.
func openError(op string, err error) error {
	e := &OpenError{Op: op, Err: err}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.hint = "the TUN driver is not there; as root: modprobe tun"
	case errors.Is(err, unix.ENODEV):
		e.hint = "the kernel has no TUN driver; as root: modprobe tun"
	case errors.Is(err, unix.EACCES):
		e.hint = "as root: chmod 0666 " + Path
	}
	return e
}
