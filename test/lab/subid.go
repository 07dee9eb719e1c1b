package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SetUID puts copies of the machine's programs into a directory of the host
// where they run with the rights of root of L, and returns that directory. It
// needs [SubIDs].
func (l *Lab) SetUID(names ...string) string {
	l.t.Helper()
	dir := filepath.Join(l.Dir, "sbin")
	err := l.Host.Do(func() error {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
		for _, name := range names {
			from, err := exec.LookPath(name)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, name)
			if err := errors.Join(copyFile(to, from), os.Chmod(to, os.ModeSetuid|0o755)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		l.Host.Do(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	})
	return dir
}

// SubIDs writes the host's /etc/subuid and /etc/subgid, and makes the ordinary
// user known as "user".
func (l *Lab) SubIDs(ranges string) {
	l.t.Helper()
	err := l.Host.Do(func() error {
		passwd := fmt.Sprintf("root:x:0:0::/:/bin/sh\nuser:x:%d:%[1]d::/:/bin/sh\n", UserID)
		group := fmt.Sprintf("root:x:0:\nuser:x:%d:\n", UserID)
		return errors.Join(
			replaceFile("/etc/passwd", passwd), replaceFile("/etc/group", group),
			replaceFile("/etc/subuid", ranges), replaceFile("/etc/subgid", ranges))
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// replaceFile writes a file in the place of a link to the machine's.
func replaceFile(path, content string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}
