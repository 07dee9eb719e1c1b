package tap_test

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/tap"
)

// openDriver opens the driver's file as the child of a supervisor does.
func openDriver(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open(tap.Path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "driver")
	t.Cleanup(func() { f.Close() })
	return f
}

// TestAttach makes devices of descriptors, and attaches to those that are there,
// with the same results as Open.
func TestAttach(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, tt := range []struct {
		name  string
		flags uint16 // of the device that is there; 0 for none
	}{
		{"new0", 0},
		{"plain0", unix.IFF_TAP | unix.IFF_NO_PI},
		{"header0", unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR},
		{"queues0", unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE},
	} {
		for _, offload := range []tap.Offload{tap.OffloadAuto, tap.OffloadOn, tap.OffloadOff} {
			t.Run(tt.name+"/"+offload.String(), func(t *testing.T) {
				name := tt.name[:len(tt.name)-1] + offload.String()
				if tt.flags != 0 {
					old := attach(t, name, tt.flags)
					if err := unix.IoctlSetInt(int(old.Fd()), unix.TUNSETPERSIST, 1); err != nil {
						t.Fatal(err)
					}
					old.Close()
				}
				f := openDriver(t)
				features, err := tap.Attach(f, name, offload)
				if err != nil {
					t.Fatal(err)
				}
				want := offload != tap.OffloadOff
				if features.Header != want || features.TSO != want || features.Checksum != want || (features.Why == "") != (want && features.USO) {
					t.Errorf("features: got %+v, want offloads: %v", features, want)
				}
				if got := offloads(t, name); got != want {
					t.Errorf("segmentation left to us: got %v, want %v", got, want)
				}
				if _, err := tap.Attach(openDriver(t), name, offload); !errors.Is(err, unix.EBUSY) && tt.name != "queues0" {
					t.Errorf("second attachment: got %v, want %v", err, unix.EBUSY)
				}
				if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
					t.Errorf("status flags: got %#x and error %v, want non-blocking", flags, err)
				}
			})
		}
	}
}

func TestAttachErrors(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for name, want := range map[string]error{"lo": unix.EINVAL, "fifteen-letters+": unix.EINVAL, "a/b": unix.EINVAL} {
		var open *tap.OpenError
		if _, err := tap.Attach(openDriver(t), name, tap.OffloadAuto); !errors.Is(err, want) || !errors.As(err, &open) {
			t.Errorf("%s: got %v, want an OpenError of %v", name, err, want)
		}
	}
}
