package tap_test

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/tap"
)

// attach makes or attaches to a device by ioctl alone, as other programs do.
func attach(t *testing.T, name string, flags uint16) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "inherited")
	t.Cleanup(func() { f.Close() })
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	return f
}

// offloads says whether the guest's kernel leaves segmentation to us.
func offloads(t *testing.T, name string) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const getTSO = 0x1e // ETHTOOL_GTSO
	value := struct{ command, data uint32 }{command: getTSO}
	request := struct {
		name  [unix.IFNAMSIZ]byte
		value unsafe.Pointer
		_     [16]byte
	}{value: unsafe.Pointer(&value)}
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		t.Fatalf("ioctl ETHTOOL_GTSO on %s: %v", name, errno)
	}
	return value.data != 0
}

// TestOpenPersistent attaches to devices that others have made and left, with
// every offload switched on.
func TestOpenPersistent(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, tt := range []struct {
		name  string
		flags uint16
	}{
		{"plain0", unix.IFF_TAP | unix.IFF_NO_PI},
		{"info0", unix.IFF_TAP},
		{"header0", unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR},
		{"queues0", unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE},
	} {
		for _, offload := range []tap.Offload{tap.OffloadAuto, tap.OffloadOn, tap.OffloadOff} {
			t.Run(tt.name+"/"+offload.String(), func(t *testing.T) {
				name := tt.name[:len(tt.name)-1] + offload.String()
				old := attach(t, name, tt.flags)
				fd := int(old.Fd())
				const all = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
				err := errors.Join(unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1), unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, all))
				if err != nil {
					t.Fatal(err)
				}
				old.Close()
				f, features := open(t, name, offload)
				want := offload != tap.OffloadOff
				if features.Header != want || features.TSO != want || features.Checksum != want {
					t.Errorf("features: got %+v, want offloads: %v", features, want)
				}
				if got := offloads(t, name); got != want {
					t.Errorf("segmentation left to us: got %v, want %v", got, want)
				}
				if _, _, err := tap.Open(name, offload); !errors.Is(err, unix.EBUSY) && tt.name != "queues0" {
					t.Errorf("second attachment: got %v, want %v", err, unix.EBUSY)
				}
				f.Close()
			})
		}
	}
}

func TestInherit(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const plain = unix.IFF_TAP | unix.IFF_NO_PI
	for _, tt := range []struct {
		name    string
		flags   uint16
		offload tap.Offload
		header  bool
		tso     bool
		fails   bool
	}{
		{"plain-auto", plain, tap.OffloadAuto, false, false, false},
		{"plain-off", plain, tap.OffloadOff, false, false, false},
		{"plain-on", plain, tap.OffloadOn, false, false, true},
		{"header-auto", plain | unix.IFF_VNET_HDR, tap.OffloadAuto, true, true, false},
		{"header-on", plain | unix.IFF_VNET_HDR, tap.OffloadOn, true, true, false},
		{"header-off", plain | unix.IFF_VNET_HDR, tap.OffloadOff, true, false, false},
		{"tun", unix.IFF_TUN | unix.IFF_NO_PI, tap.OffloadAuto, false, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := attach(t, tt.name, tt.flags)
			got, err := tap.Inherit(f, tt.offload)
			if tt.fails {
				var open *tap.OpenError
				if !errors.As(err, &open) {
					t.Errorf("got %+v and error %v, want an OpenError", got, err)
				}
				return
			}
			if err != nil || got.Header != tt.header || got.TSO != tt.tso || got.Checksum != tt.tso {
				t.Fatalf("got %+v and error %v, want header %v, offloads %v", got, err, tt.header, tt.tso)
			}
			if shown := offloads(t, tt.name); shown != tt.tso {
				t.Errorf("segmentation left to us: got %v, want %v", shown, tt.tso)
			}
			raw, err := f.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) {
				if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
					t.Errorf("status flags: got %#x and error %v, want non-blocking", flags, err)
				}
			})
		})
	}
}

// TestInheritOther wants descriptors of other kinds refused, but for a socket
// whose packets are frames.
func TestInheritOther(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, tt := range map[string]struct {
		kind int
		want error
	}{
		"packets":  {unix.SOCK_SEQPACKET, nil},
		"stream":   {unix.SOCK_STREAM, unix.EPROTOTYPE},
		"datagram": {unix.SOCK_DGRAM, unix.EPROTOTYPE},
		"file":     {0, unix.ENOTTY},
		"none":     {-1, unix.EBADF},
	} {
		t.Run(name, func(t *testing.T) {
			f := null
			switch tt.kind {
			case 0:
			case -1:
				f = os.NewFile(1<<20, "none") // above every limit
			default:
				fds, err := unix.Socketpair(unix.AF_UNIX, tt.kind|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fds[1])
				f = os.NewFile(uintptr(fds[0]), "socket")
				defer f.Close()
			}
			got, err := tap.Inherit(f, tap.OffloadAuto)
			if !errors.Is(err, tt.want) || err == nil && got.Header {
				t.Errorf("got %+v and error %v, want %v", got, err, tt.want)
			}
		})
	}
}

// TestSocketFrames exchanges frames with a switch that listens at a socket's
// path, as BESS does, and ends when the switch does.
func TestSocketFrames(t *testing.T) {
	address := &unix.SockaddrUnix{Name: t.TempDir() + "/vport"}
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "vport")
	defer f.Close()
	if err := errors.Join(unix.Bind(listener, address), unix.Listen(listener, 1), unix.Connect(fd, address)); err != nil {
		t.Fatal(err)
	}
	peer, _, err := unix.Accept(listener)
	if err != nil {
		t.Fatal(err)
	}
	features, err := tap.Inherit(f, tap.OffloadAuto)
	if err != nil {
		t.Fatal(err)
	}
	device, err := tap.New(f, features)
	if err != nil {
		t.Fatal(err)
	}
	w := device.NewWriter()
	send(t, w, count(14), count(1500))
	b := make([]byte, tap.MaxFrame)
	if n, err := unix.Read(peer, b); err != nil || n != 1514 {
		t.Errorf("to the switch: got %d bytes and error %v, want 1514", n, err)
	}
	frame := make([]byte, tap.MaxFrame)
	got := make(chan []byte, 1)
	done := run(device.NewReader(frame), func(n int) { got <- frame[:n] })
	if _, err := unix.Write(peer, b[:60]); err != nil {
		t.Fatal(err)
	}
	if b := next(t, "frame from the switch", got); len(b) != 60 {
		t.Errorf("from the switch: got %d bytes, want 60", len(b))
	}
	unix.Close(peer)
	if err := next(t, "end", done); err != nil {
		t.Errorf("end of the switch: got %v, want nil", err)
	}
	w.Add(frame[:60])
	if err := w.Flush(); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write without a switch: got %v, want %v", err, unix.EPIPE)
	}
}
