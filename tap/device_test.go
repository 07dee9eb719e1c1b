package tap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/tap"
	"taproot/test/settle"
)

// open makes a device, or fails the test.
func open(t *testing.T, name string, offload tap.Offload) (*os.File, tap.Features) {
	t.Helper()
	f, features, err := tap.Open(name, offload)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, features
}

// bothWays calls f with devices opened in the two ways.
func bothWays(t *testing.T, f func(t *testing.T, name string, offload tap.Offload)) {
	for name, offload := range map[string]tap.Offload{"offl0": tap.OffloadOn, "plain0": tap.OffloadOff} {
		t.Run(name, func(t *testing.T) { f(t, name, offload) })
	}
}

func TestOpenFeatures(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, tt := range []struct {
		offload tap.Offload
		header  bool
	}{{tap.OffloadAuto, true}, {tap.OffloadOn, true}, {tap.OffloadOff, false}} {
		t.Run(tt.offload.String(), func(t *testing.T) {
			_, got := open(t, "tap0", tt.offload)
			if got.Header != tt.header || got.Checksum != tt.header || got.TSO != tt.header {
				t.Errorf("got %+v, want header, checksum and TSO %v", got, tt.header)
			}
			if all := got.Header && got.Checksum && got.TSO && got.USO; all != (got.Why == "") {
				t.Errorf("got %+v, want a reason exactly if something is missing", got)
			}
		})
	}
}

// TestOpenDescriptor wants the name asked for, and a descriptor that no child
// inherits and no read blocks on.
func TestOpenDescriptor(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	bothWays(t, func(t *testing.T, name string, offload tap.Offload) {
		f, _ := open(t, name, offload)
		if f.Name() != name {
			t.Errorf("file: got %q, want %q", f.Name(), name)
		}
		ifce, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(ifce.HardwareAddr) != 6 {
			t.Errorf("hardware address: got %v, want that of Ethernet", ifce.HardwareAddr)
		}
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor flags: got %#x and error %v, want close-on-exec", flags, err)
			}
			if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("status flags: got %#x and error %v, want non-blocking", flags, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if _, err := net.InterfaceByName(name); err == nil {
			t.Errorf("%s is there after its only descriptor was closed", name)
		}
	})
}

func TestOpenRefused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	open(t, "taken0", tap.OffloadAuto)
	for _, tt := range []struct {
		name string
		want error
	}{
		{"taken0", unix.EBUSY},
		{"a-name-of-16-byt", unix.EINVAL},
		{"lo", unix.EINVAL},
		{"a/b", unix.EINVAL},
	} {
		for _, offload := range []tap.Offload{tap.OffloadAuto, tap.OffloadOn, tap.OffloadOff} {
			f, _, err := tap.Open(tt.name, offload)
			if err == nil {
				f.Close()
			}
			var open *tap.OpenError
			if !errors.Is(err, tt.want) || !errors.As(err, &open) {
				t.Errorf("%s, offload %v: got %v, want an OpenError with %v", tt.name, offload, err, tt.want)
			} else if !strings.Contains(err.Error(), tt.name) {
				t.Errorf("%s, offload %v: got %q, want the name in it", tt.name, offload, err)
			}
		}
	}
}

// TestOpenWithoutDriver hides /dev/net and wants the remedy.
func TestOpenWithoutDriver(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, offload := range []tap.Offload{tap.OffloadAuto, tap.OffloadOff} {
		_, _, err := tap.Open("tap0", offload)
		var open *tap.OpenError
		if !errors.Is(err, unix.ENOENT) || !errors.As(err, &open) || !strings.Contains(open.Hint(), "modprobe tun") {
			t.Errorf("offload %v: got %v, want ENOENT with a hint", offload, err)
		}
	}
}

// TestDeviceFrames sends a frame through the guest's side of the device, both
// ways, and wants it unchanged.
func TestDeviceFrames(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	bothWays(t, func(t *testing.T, name string, offload tap.Offload) {
		f, features := open(t, name, offload)
		device, err := tap.New(f, features)
		if err != nil {
			t.Fatal(err)
		}
		if device.Features() != features {
			t.Errorf("features: got %+v, want %+v", device.Features(), features)
		}
		w, virtio := device.NewWriter(), []byte{}
		if features.Header {
			virtio = make([]byte, tap.HeaderLen)
		}
		frame := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, count(100)...) // an experimental EtherType
		w.Add(virtio)
		w.Add(frame)
		if err := w.Flush(); !errors.Is(err, unix.EIO) || device.Dropped() != 1 {
			t.Errorf("device down: got %v and %d dropped, want %v and 1", err, device.Dropped(), unix.EIO)
		}
		setUp(t, name)
		guest := packetSocket(t, name)
		got := make(chan []byte, 16)
		head, rest := make([]byte, tap.HeaderLen), make([]byte, tap.MaxFrame)
		bufs := [][]byte{head, rest}[1-len(virtio)/tap.HeaderLen:]
		done := run(device.NewReader(bufs...), func(n int) {
			if b := rest[:n-len(virtio)]; bytes.Equal(b[12:14], frame[12:14]) {
				got <- bytes.Clone(b)
			}
		})
		if _, err := unix.Write(guest, frame); err != nil {
			t.Fatal(err)
		}
		if b := next(t, "frame from the guest", got); !bytes.Equal(b, frame) {
			t.Errorf("from the guest: got % x, want % x", b, frame)
		}
		send(t, w, virtio, frame[:20], frame[20:])
		b := make([]byte, tap.MaxFrame)
		n, err := unix.Read(guest, b)
		if err != nil || !bytes.Equal(b[:n], frame) {
			t.Errorf("to the guest: got % x and error %v, want % x", b[:n], err, frame)
		}
		device.Close()
		if err := next(t, "end", done); err != nil {
			t.Errorf("run: got %v after Close, want nil", err)
		}
	})
}

// TestDeviceGone deletes the device while a reader waits for it.
func TestDeviceGone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	bothWays(t, func(t *testing.T, name string, offload tap.Offload) {
		f, features := open(t, name, offload)
		device, err := tap.New(f, features)
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		setUp(t, name)
		guest := packetSocket(t, name)
		got := make(chan struct{}, 64)
		done := run(device.NewReader(make([]byte, tap.HeaderLen+tap.MaxFrame)), func(int) { got <- struct{}{} })
		if _, err := unix.Write(guest, count(60)); err != nil {
			t.Fatal(err)
		}
		next(t, "frame", got) // Run is known to run
		deleteLink(t, name)
		err = next(t, "end", done)
		if !errors.Is(err, unix.EBADFD) && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENODEV) {
			t.Errorf("run: got %v, want EBADFD, EIO or ENODEV", err)
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("run: got %v, want the device's name in it", err)
		}
		w := device.NewWriter()
		w.Add(count(60))
		if err := w.Flush(); err == nil {
			t.Error("write: got no error")
		}
	})
}

// setUp brings a device up.
func setUp(t *testing.T, name string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifreq, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifreq.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq); err != nil {
		t.Fatalf("%s up: %v", name, err)
	}
}

// packetSocket returns a socket for the experimental EtherType on the guest's
// side of a device. Reads from it end after settle.Patience.
func packetSocket(t *testing.T, name string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifce, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0x88, 0xb5}), Ifindex: ifce.Index}); err != nil {
		t.Fatal(err)
	}
	limit := unix.NsecToTimeval(settle.Patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	return fd
}

// deleteLink deletes an interface: RTM_DELLINK of rtnetlink(7).
func deleteLink(t *testing.T, name string) {
	t.Helper()
	ifce, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request := struct {
		unix.NlMsghdr
		unix.IfInfomsg
	}{
		unix.NlMsghdr{Type: unix.RTM_DELLINK, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK, Len: unix.SizeofNlMsghdr + unix.SizeofIfInfomsg},
		unix.IfInfomsg{Index: int32(ifce.Index)},
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4096)
	if n, err := unix.Read(fd, answer); err != nil || n < unix.SizeofNlMsghdr+4 {
		t.Fatalf("delete %s: got %d bytes and error %v", name, n, err)
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		t.Fatalf("delete %s: %v", name, unix.Errno(errno))
	}
}
