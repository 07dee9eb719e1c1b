package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PTY gives the command a new terminal, which becomes its controlling one, for
// all three standard descriptors. It returns the other side of it, which is
// closed when the test ends. The terminal has no name in the file system. It
// must be called before Start.
func (c *Cmd) PTY() *os.File {
	t := c.ns.lab.t
	t.Helper()
	var master, slave *os.File
	err := c.ns.Do(func() (err error) {
		master, slave, err = openPTY(filepath.Join(c.ns.lab.Dir, "pts"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	// When nobody else has the terminal open any more, reading master ends.
	c.afterStart = append(c.afterStart, slave)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.SysProcAttr.Setsid = true
	c.SysProcAttr.Setctty = true
	c.SysProcAttr.Ctty = 0
	return master
}

// openPTY opens a new terminal of a devpts of our own at dir: the machine's
// may not let us. It changes the calling thread's mount namespace, so that
// nobody else sees that mount.
func openPTY(dir string) (master, slave *os.File, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, nil, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("devpts", dir, "devpts", 0, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return nil, nil, fmt.Errorf("mount devpts: %w", err)
	}
	master, err = os.OpenFile(filepath.Join(dir, "ptmx"), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	slave, err = os.OpenFile(filepath.Join(dir, fmt.Sprint(number)), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}

// SetWindow changes the size of a terminal, whose processes get SIGWINCH.
func SetWindow(master *os.File, rows, columns uint16) error {
	return unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
}
