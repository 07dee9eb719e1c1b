package slirp

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// copyForExec returns a copy of f that would survive exec.
func copyForExec(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func closeFD(t *testing.T, fd string) {
	t.Helper()
	n, err := strconv.Atoi(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(n); err != nil {
		t.Fatal(err)
	}
}
