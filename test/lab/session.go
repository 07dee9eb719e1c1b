package lab

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Session is a login of the ordinary user on the host. Its commands share
// one user namespace U (see doc.go), as those of a real machine do, so that one
// of them may join the namespaces that another one made. [Lab.User] gives each
// command a U of its own.
type Session struct {
	// RuntimeDir is the user's directory below /run, of which the host has an
	// empty one for the session. Its name is short enough for the sockets
	// that programs put there: 107 bytes are the most (unix(7)).
	RuntimeDir string

	lab *Lab
	pid int // of a process in U
}

// Session begins a session, which ends with the test. There may be one at a
// time.
func (l *Lab) Session() *Session {
	l.t.Helper()
	s := &Session{RuntimeDir: "/run/user/" + strconv.Itoa(UserID), lab: l}
	l.Host.Cover("/run")
	if err := l.Host.Do(s.makeRuntimeDir); err != nil {
		l.t.Fatal(err)
	}
	// It waits for the end of its standard input, which comes with the test.
	holder := l.User("cat")
	in, err := holder.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	holder.Stay()
	holder.MustStart()
	l.t.Cleanup(func() { in.Close() })
	s.pid = holder.Process.Pid
	return s
}

func (s *Session) makeRuntimeDir() error {
	if err := os.MkdirAll(filepath.Dir(s.RuntimeDir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(s.RuntimeDir, 0o700); err != nil {
		return err
	}
	return s.lab.Give(s.RuntimeDir)
}

// Cover mounts an empty directory over one of the namespace's, for its root to
// write, until the test ends. It fails the test when that is not possible.
func (n *Namespace) Cover(dir string) {
	n.lab.t.Helper()
	err := n.Do(func() error {
		return unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	})
	if err != nil {
		n.lab.t.Fatalf("%s: cover %s: %v", n.Name, dir, err)
	}
	n.lab.t.Cleanup(func() {
		n.Do(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	})
}

// With is the same session for a subtest, whose laboratory is l.
func (s *Session) With(l *Lab) *Session {
	with := *s
	with.lab = l
	return &with
}

// Command is a command of the session. Its process id is that of the process
// that becomes the command.
func (s *Session) Command(name string, args ...string) *Cmd {
	words := []string{"--user=/proc/" + strconv.Itoa(s.pid) + "/ns/user"}
	if s.lab.stage.Wide {
		id := strconv.Itoa(UserID)
		words = append(words, "--setuid="+id, "--setgid="+id)
	} else {
		// Root of L has the only id there is, which is the user's in U, and
		// must not change its groups (user_namespaces(7)).
		words = append(words, "--preserve-credentials")
	}
	words = append(append(words, "--", name), args...)
	c := s.lab.Host.Command("nsenter", words...)
	c.Env = append(c.Env, "USER=user", "LOGNAME=user", "XDG_RUNTIME_DIR="+s.RuntimeDir)
	return c
}

// Release ends the test's own hold on the namespace, which would keep it after
// the last process in it. There must be nothing more to do there.
func (n *Namespace) Release() { n.net.Close() }
