package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// A Lab is one laboratory. It lives as long as its test.
type Lab struct {
	// Host is the user's machine, Router the way, Outside the servers.
	Host, Router, Outside *Namespace

	// Dir is a directory for the test's files, also readable by the ordinary
	// user.
	Dir string

	t     TB
	stage stage
}

// New makes a laboratory for one test, or skips the test where the machine
// does not allow it. Everything is gone when the test ends. It takes a few
// milliseconds.
func New(t TB) *Lab {
	t.Helper()
	Need(t, NetNS)
	s, err := currentStage()
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{t: t, stage: s}
	if err := l.makeDir(); err != nil {
		t.Fatal(err)
	}
	var err1, err2, err3 error
	l.Host, err1 = newNamespace(l, "host")
	l.Router, err2 = newNamespace(l, "router")
	l.Outside, err3 = newNamespace(l, "outside")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	if err := errors.Join(l.build(), l.ownEtc()); err != nil {
		t.Fatal(err)
	}
	return l
}

// makeDir makes Dir. [testing.TB.TempDir] would be closed to the ordinary
// user.
func (l *Lab) makeDir() error {
	dir, err := os.MkdirTemp("", "lab-")
	if err != nil {
		return err
	}
	l.Dir = dir
	l.t.Cleanup(func() { os.RemoveAll(dir) })
	return errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, l.userID(), l.userID()))
}

// userID is the ordinary user's id in L.
func (l *Lab) userID() int {
	if l.stage.Wide {
		return UserID
	}
	return 0
}

// Give makes the ordinary user the owner of a file.
func (l *Lab) Give(path string) error { return os.Chown(path, l.userID(), l.userID()) }

// With is the same laboratory for a subtest: what fails, fails t, and what is
// started or opened by it ends with t.
func (l *Lab) With(t TB) *Lab {
	with := *l
	with.t = t
	for _, n := range []**Namespace{&with.Host, &with.Router, &with.Outside} {
		copied := **n
		copied.lab = &with
		*n = &copied
	}
	return &with
}

func (l *Lab) close() {
	if err := errors.Join(l.Host.close(), l.Router.close(), l.Outside.close()); err != nil {
		l.t.Error(err)
	}
}

// lastID is the highest user and group id of L.
func (l *Lab) lastID() int {
	if l.stage.Wide {
		return wideIDs - 1
	}
	return 0
}

// TaprootPath is the program under test.
func (l *Lab) TaprootPath() string { return filepath.Join(l.stage.Dir, "taproot") }

// ProgramArgs is the command line that runs one of the test binary's own
// [Programs], for use as the last words of another command line.
func (l *Lab) ProgramArgs(name string, args ...string) []string {
	return append([]string{filepath.Join(l.stage.Dir, "test"), programArg, name}, args...)
}

// WriteFile makes a file in Dir and returns its path.
func (l *Lab) WriteFile(name, content string) string {
	l.t.Helper()
	path := filepath.Join(l.Dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		l.t.Fatal(fmt.Errorf("prepare %s: %w", name, err))
	}
	return path
}
