package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ResolvConf is what the host's /etc/resolv.conf says at first: a resolver on
// the outside.
const ResolvConf = "nameserver " + Outside4 + "\nsearch example.test\n"

// ownEtc gives the host namespace an /etc of its own, so that a test can write
// resolv.conf in every way that programs do: links to the machine's files, and
// its own resolv.conf and hosts.
func (l *Lab) ownEtc() error {
	old := filepath.Join(l.Dir, "etc")
	if err := os.Mkdir(old, 0o755); err != nil {
		return err
	}
	return l.Host.Do(func() error {
		if err := unix.Mount("/etc", old, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("keep /etc: %w", err)
		}
		if err := unix.Mount("tmpfs", "/etc", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mount /etc: %w", err)
		}
		entries, err := os.ReadDir(old)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry.Name() == "resolv.conf" || entry.Name() == "hosts" {
				continue
			}
			if err := os.Symlink(filepath.Join(old, entry.Name()), filepath.Join("/etc", entry.Name())); err != nil {
				return err
			}
		}
		if err := os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644); err != nil {
			return err
		}
		return os.WriteFile("/etc/resolv.conf", []byte(ResolvConf), 0o644)
	})
}
