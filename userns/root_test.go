package userns

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRoot wants the root of the target's process, as long as there is one.
func TestRoot(t *testing.T) {
	if !asUser(t) {
		return
	}
	target := newTarget(t, "answer", rootTarget())
	n := openTarget(t, Target{PID: target.pid})
	root, err := n.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var got unix.Stat_t
	if err := raw(t, root, func(fd int) error { return unix.Fstat(fd, &got) }); err != nil {
		t.Fatal(err)
	}
	var want unix.Stat_t
	if err := unix.Stat("/", &want); err != nil || got.Ino != want.Ino || got.Dev != want.Dev {
		t.Errorf("got inode %d of %d, want %d of %d", got.Ino, got.Dev, want.Ino, want.Dev)
	}
	target.end()
	if root, err := n.Root(); err == nil {
		root.Close()
		t.Error("after the process: got a directory, want an error")
	}
}

// TestRootUnknown: a path tells no files.
func TestRootUnknown(t *testing.T) {
	n := &Namespace{target: Target{NetNS: "/run/netns/x"}}
	_, err := n.Root()
	var h *hinted
	if !errors.As(err, &h) || h.Hint() == "" {
		t.Errorf("got %v, want a hint", err)
	}
}
