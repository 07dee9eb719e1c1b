package socket

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestCeiling wants descriptors below a ceiling left alone, and one at it closed.
func TestCeiling(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	isOpen := func() bool {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		return err == nil
	}
	for _, c := range []Ceiling{0, Ceiling(fd + 1)} {
		if err := c.Admit(fd); err != nil || !isOpen() {
			t.Fatalf("ceiling %d, descriptor %d: got %v, want it open", c, fd, err)
		}
	}
	if err := Ceiling(fd).Admit(fd); err != unix.EMFILE {
		t.Errorf("at the ceiling: got %v, want %v", err, unix.EMFILE)
	}
}
