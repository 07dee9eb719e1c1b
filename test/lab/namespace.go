package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace together with a mount namespace. Its
// methods are safe for concurrent use.
type Namespace struct {
	// Name is host, router or outside.
	Name string

	lab      *Lab
	net, mnt *os.File
	id       string // as readlink(2) of /proc/PID/ns/net says it
}

// newNamespace makes a network namespace and a copy of the mount namespace.
func newNamespace(l *Lab, name string) (*Namespace, error) {
	n := &Namespace{Name: name, lab: l}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		var err1, err2, err3 error
		n.net, err1 = os.Open("/proc/thread-self/ns/net")
		n.mnt, err2 = os.Open("/proc/thread-self/ns/mnt")
		n.id, err3 = os.Readlink("/proc/thread-self/ns/net")
		return errors.Join(err1, err2, err3)
	})
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	return n, nil
}

func (n *Namespace) close() error { return errors.Join(n.net.Close(), n.mnt.Close()) }

// Do calls f on a thread that is in the namespace, as root of it, and returns
// what f returns. Sockets, files and processes made by f belong to the
// namespace; goroutines started by f do not run in it. The working directory
// is that of the test.
func (n *Namespace) Do(f func() error) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	return onThread(func() error {
		// Only a thread with its own root and working directory may change
		// its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(int(n.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mounts of %s: %w", n.Name, err)
		}
		if err := unix.Setns(int(n.net.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network of %s: %w", n.Name, err)
		}
		// Changing the mount namespace also changes to its root directory.
		if err := unix.Chdir(dir); err != nil {
			return fmt.Errorf("chdir %s: %w", dir, err)
		}
		return f()
	})
}

// onThread calls f on a new goroutine that keeps its thread, which ends with
// it: nobody else can ever run in f's namespaces by accident.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Listen is [net.Listen] in the namespace. The listener is closed when the
// test ends. It fails the test when that is not possible.
func (n *Namespace) Listen(network, address string) net.Listener {
	n.lab.t.Helper()
	var listener net.Listener
	err := n.Do(func() (err error) {
		listener, err = net.Listen(network, address)
		return err
	})
	if err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
	n.lab.t.Cleanup(func() { listener.Close() })
	return listener
}

// ListenPacket is [net.ListenPacket] in the namespace. The socket is closed
// when the test ends. It fails the test when that is not possible.
func (n *Namespace) ListenPacket(network, address string) net.PacketConn {
	n.lab.t.Helper()
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	if err != nil {
		n.lab.t.Fatalf("%s: %v", n.Name, err)
	}
	n.lab.t.Cleanup(func() { conn.Close() })
	return conn
}

// Dial is [net.Dialer.DialContext] in the namespace, for addresses that need
// no resolver.
func (n *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		// Without Happy Eyeballs the socket is made by this very goroutine.
		dialer := net.Dialer{FallbackDelay: -1}
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
