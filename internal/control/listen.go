package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"
)

// maxPath is the longest path of a socket in bytes: sun_path of unix(7) less
// the NUL that ends it.
const maxPath = 107

// errLive says that somebody answers at a path already.
var errLive = errors.New("in use by a live instance")

// errLong says that a path does not fit into a socket's address.
var errLong = fmt.Errorf("longer than %d bytes", maxPath)

// An instance whose container was stopped may still be leaving when podman
// starts the next one at the same path.
const (
	leaving      = 2 * time.Second
	leavingPause = 10 * time.Millisecond
)

// bind makes the socket at path, in place of a file that is left from
// somebody who is gone.
func bind(path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("API socket %s: %w", path, errLong)
	}
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	if strings.HasPrefix(path, "@") {
		addr.Name = "./" + path // else package net takes it for an abstract name
	}
	err := vacate(addr)
	for deadline := time.Now().Add(leaving); errors.Is(err, errLive) && time.Now().Before(deadline); err = vacate(addr) {
		time.Sleep(leavingPause)
	}
	if err != nil {
		return nil, fmt.Errorf("API socket %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, fmt.Errorf("API socket %s: %w", path, cause(err))
	}
	l.SetUnlinkOnClose(false) // Server.unlink looks whose it is
	return l, nil
}

// vacate removes what is at an address, unless somebody listens there.
func vacate(addr *net.UnixAddr) error {
	c, err := net.DialUnix("unix", nil, addr)
	if err == nil {
		c.Close()
		return errLive
	}
	if errors.Is(err, syscall.EAGAIN) { // too many are waiting there already
		return errLive
	}
	err = syscall.Unlink(addr.Name) // not os.Remove, which takes empty directories too
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// cause returns the error of the system in err without the words around it,
// which repeat the path.
func cause(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}
