package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// tmpfsSlack is what the tmpfs of the covering files holds beside their
// contents, in bytes: a command that edits a file writes a second one.
const tmpfsSlack = 1 << 20

// ownMounts makes the mount namespace ours. Mounts of the host still come and
// go in it, so that the guest does not hold a medium that the host ejects; ours
// stay in it.
func (s *stage) ownMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("mount /: make slave: %w", err)
	}
	if !s.order.PID {
		return nil
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
		err = fmt.Errorf("mount /proc: %w", err)
		if errors.Is(err, unix.EPERM) {
			// The kernel wants a /proc without mounts over its parts in view.
			return &hinted{err, "run without --pid; or, inside a container, start it with: " +
				"--security-opt unmask=ALL"}
		}
		return err
	}
	return nil
}

// What is covered.
const (
	resolvConfPath = "/etc/resolv.conf"
	hostsPath      = "/etc/hosts"
)

// A cover is a file that gets other contents in the guest's view.
type cover struct {
	path    string
	content []byte // nil leaves the file in view
}

// coverFiles shows the guest its own /etc/resolv.conf and /etc/hosts, and its
// own devices in /sys/class/net.
func (s *stage) coverFiles() error {
	scratch, err := scratchDir()
	if err != nil {
		return err
	}
	s.warn(coverSys(scratch))
	covers := []cover{
		{resolvConfPath, s.order.ResolvConf},
		{hostsPath, s.order.Hosts},
	}
	size := tmpfsSlack
	var targets [][]int
	for _, c := range covers {
		size += len(c.content)
		// Opened before the tmpfs hides what may be below it.
		fds, err := c.targets()
		s.warn(err)
		defer closeAll(fds)
		targets = append(targets, fds)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", scratch, "tmpfs", flags, fmt.Sprintf("mode=755,size=%d", size)); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	// The files stay where they are mounted on; the directory comes into view
	// again.
	defer unix.Unmount(scratch, unix.MNT_DETACH)
	for i, c := range covers {
		if err := c.mount(scratch, targets[i]); err != nil {
			return err
		}
	}
	return nil
}

// targets opens the places to mount on: the file itself, and the symbolic link
// that leads to it, if there is one. A mount on the link is what lasts:
// resolvers replace their file by a new one, and the mount on the old goes.
func (c cover) targets() (fds []int, err error) {
	if c.content == nil {
		return nil, nil
	}
	for _, follow := range []int{0, unix.O_NOFOLLOW} {
		fd, err := unix.Open(c.path, unix.O_PATH|unix.O_CLOEXEC|follow, 0)
		if err != nil {
			if len(fds) == 0 && follow != 0 {
				return nil, fmt.Errorf("cover %s: %w", c.path, err)
			}
			continue
		}
		fds = append(fds, fd)
	}
	if len(fds) == 2 && sameFile(fds[0], fds[1]) {
		unix.Close(fds[1])
		fds = fds[:1]
	}
	return fds, nil
}

// mount writes the content to a file in dir and mounts it on the targets.
func (c cover) mount(dir string, targets []int) error {
	if len(targets) == 0 {
		return nil
	}
	source := filepath.Join(dir, filepath.Base(c.path))
	if err := os.WriteFile(source, c.content, 0o644); err != nil {
		return err
	}
	// Whatever umask the caller has.
	if err := os.Chmod(source, 0o644); err != nil {
		return err
	}
	for _, fd := range targets {
		if err := unix.Mount(source, "/proc/self/fd/"+strconv.Itoa(fd), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", c.path, err)
		}
	}
	return nil
}

// coverSys has /sys/class/net show the guest's devices. Only the two
// directories that hold network devices are replaced, so that what else is
// mounted below /sys (control groups) stays. Where /sys is not all in view, as
// in containers, the kernel refuses.
func coverSys(scratch string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("sysfs", scratch, "sysfs", flags, ""); err != nil {
		return nil
	}
	defer unix.Unmount(scratch, unix.MNT_DETACH)
	for _, dir := range []string{"class/net", "devices/virtual/net"} {
		err := unix.Mount(filepath.Join(scratch, dir), filepath.Join("/sys", dir), "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("mount on /sys/%s: %w", dir, err)
		}
	}
	return nil
}

// scratchDir returns a directory to mount on for a moment, before the guest
// runs. Any will do that no path we use goes through.
func scratchDir() (string, error) {
	for _, dir := range []string{"/tmp", "/mnt", "/var/tmp", "/run", "/home"} {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir, nil
		}
	}
	return "", fmt.Errorf("directory to mount on: %w", fs.ErrNotExist)
}

func sameFile(a, b int) bool {
	x, errA := inodeOf(a)
	y, errB := inodeOf(b)
	return errA == nil && errB == nil && x == y
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
