package lab

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTAP makes a TAP device in the namespace, without packet information, and
// returns its descriptor, which is closed when the test ends. It fails the
// test when that is not possible.
func (n *Namespace) OpenTAP(name string) *os.File {
	n.lab.t.Helper()
	device, err := n.openTAP(name, false)
	if err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
	n.lab.t.Cleanup(func() { device.Close() })
	return device
}

// PersistentTAP makes a TAP device that stays in the namespace and that
// nobody has opened yet, and sets it up, as "ip tuntap add" and "ip link set
// up" do. It fails the test when that is not possible.
func (n *Namespace) PersistentTAP(name string) {
	n.lab.t.Helper()
	device, err := n.openTAP(name, true)
	if err == nil {
		device.Close()
		err = n.Do(func() error { return setUp(name) })
	}
	if err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
}

func (n *Namespace) openTAP(name string, persistent bool) (*os.File, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("name %s: %w", name, err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	var device *os.File
	err = n.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		device = os.NewFile(uintptr(fd), name)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		if persistent {
			return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
		}
		return nil
	})
	if err != nil && device != nil {
		device.Close()
	}
	return device, err
}

// SetUp sets an interface of the namespace up. It fails the test when that is
// not possible.
func (n *Namespace) SetUp(name string) {
	n.lab.t.Helper()
	if err := n.Do(func() error { return setUp(name) }); err != nil {
		n.lab.t.Fatalf("%s: set %s up: %v", n.Name, name, err)
	}
}
