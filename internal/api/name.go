package api

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// suffix ends the names of sockets in Directory.
const suffix = ".sock"

// Directory is where the sockets of this user's instances are: taproot in
// $XDG_RUNTIME_DIR, or /tmp/taproot-UID where there is none. One that belongs to
// somebody else counts as none: su(1) leaves the variable as it was, and a directory
// of root's would shut out whose it is.
func Directory() string {
	if dir, ok := runtimeDir(); ok {
		return filepath.Join(dir, "taproot")
	}
	return "/tmp/taproot-" + strconv.Itoa(os.Geteuid()) // not $TMPDIR: all sessions shall agree
}

// runtimeDir returns $XDG_RUNTIME_DIR if it is our user's. In a user namespace that is
// the user who is called as we are there: podman and rootlesskit call the one who
// started them 0, and /run/user/1000 is that one's in there, too.
func runtimeDir() (dir string, ok bool) {
	dir = os.Getenv("XDG_RUNTIME_DIR")
	return dir, filepath.IsAbs(dir) && isOurs(dir)
}

// isOurs tells whether a file belongs to our user.
func isOurs(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// Path is where the socket of an instance with a name is.
func Path(name string) string { return filepath.Join(Directory(), name+suffix) }

// maxName is the longest name in bytes: 107 bytes for a socket's path (unix(7))
// leave room for a directory.
const maxName = 48

// CheckName returns what is wrong with the name of an instance, nil if nothing.
// What is a word of `taproot ctl` is no name.
func CheckName(name string, words []string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("not 1 to %d characters", maxName)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "":
		return errors.New("not letters, digits, '_', '.' and '-' only")
	case strings.IndexByte("_.-", name[0]) >= 0:
		return errors.New("it begins with neither a letter nor a digit")
	}
	for _, w := range words {
		if name == w {
			return fmt.Errorf("%q is a word of taproot ctl", name)
		}
	}
	return nil
}

// NewName returns a name for an instance that has none: the word, which is that
// of its command or something like it, and our process id.
func NewName(word string) string {
	const longest = 16
	word = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, filepath.Base(word))
	if word == "" {
		word = "run"
	}
	return word[:min(len(word), longest)] + "-" + strconv.Itoa(os.Getpid())
}

// maker returns the process whose id ends a name as NewName returns it.
func maker(name string) (pid int, ok bool) {
	_, number, found := strings.Cut(name, "-")
	pid, err := strconv.Atoi(number)
	return pid, found && err == nil && pid > 0
}
