package tap

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOffload(t *testing.T) {
	for _, want := range []Offload{OffloadAuto, OffloadOn, OffloadOff} {
		if got, err := ParseOffload(want.String()); err != nil || got != want {
			t.Errorf("%v: got %v and error %v", want, got, err)
		}
	}
	for _, s := range []string{"", "yes", "ON", "auto ", "unknown"} {
		if got, err := ParseOffload(s); err == nil || !strings.Contains(err.Error(), "auto, on or off") {
			t.Errorf("%q: got %v and error %v, want an error that lists the choices", s, got, err)
		}
	}
	if got := Offload(3).String(); got != "unknown" {
		t.Errorf("no offload: got %q, want unknown", got)
	}
}

func TestOpenErrorHint(t *testing.T) {
	for _, tt := range []struct {
		err  error
		hint string // a part of it
	}{
		{unix.ENOENT, "modprobe tun"},
		{unix.ENODEV, "modprobe tun"},
		{unix.EACCES, "chmod 0666 /dev/net/tun"},
		{unix.EPERM, ""},
		{unix.EBUSY, ""},
	} {
		err := openError("open "+Path, tt.err)
		var hint interface{ Hint() string }
		if !errors.As(err, &hint) || !errors.Is(err, tt.err) {
			t.Errorf("%v: got %#v, want it wrapped with a hint", tt.err, err)
			continue
		}
		if got := hint.Hint(); !strings.Contains(got, tt.hint) || tt.hint == "" && got != "" {
			t.Errorf("%v: got hint %q, want %q", tt.err, got, tt.hint)
		}
		if got, want := err.Error(), "open /dev/net/tun: "+tt.err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestRefusedOffload wants a second, plain, attempt only for what a plain
// device does not ask of the kernel.
func TestRefusedOffload(t *testing.T) {
	for err, want := range map[error]bool{
		unix.EINVAL: true, unix.ENOTTY: true, unix.EOPNOTSUPP: true,
		unix.EPERM: false, unix.EACCES: false, unix.ENOENT: false, unix.EBUSY: false, unix.EMFILE: false,
	} {
		if got := refusedOffload(openError("create tap0", err)); got != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
}
