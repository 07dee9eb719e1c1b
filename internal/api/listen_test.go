package api

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "Web-1.a_b": true, "1": true, strings.Repeat("x", maxName): true,
		"": false, strings.Repeat("x", maxName+1): false, "-x": false, ".": false, "..": false, "a/b": false, "a b": false, "ä": false, "info": false,
	} {
		if err := CheckName(name, []string{"info"}); (err == nil) != want {
			t.Errorf("%q: got %v, want it to be right: %v", name, err, want)
		}
	}
	for word, want := range map[string]string{"/usr/bin/Curl": "curl", "ä/": "run", "": "run", "a_very-long.name-of-a-program": "averylongnameofa"} {
		got, want := NewName(word), want+"-"+strconv.Itoa(os.Getpid())
		if got != want || CheckName(got, nil) != nil {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func TestDirectory(t *testing.T) {
	ours := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", ours)
	if got, want := Path("x"), ours+"/taproot/x.sock"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	others := "/proc/1" // root's, unless we are root
	if os.Geteuid() == 0 {
		others = t.TempDir()
		if err := os.Chown(others, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"", "relative", "/nonexistent", others} {
		t.Setenv("XDG_RUNTIME_DIR", dir)
		if got, want := Directory(), "/tmp/taproot-"+strconv.Itoa(os.Geteuid()); got != want {
			t.Errorf("%q: got %s, want %s", dir, got, want)
		}
	}
}

// TestListen wants a directory and a socket for the user alone, and both gone at
// the end.
func TestListen(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	s, err := Listen(Config{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{Directory(): os.ModeDir | 0o700, s.Path(): os.ModeSocket | 0o600} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != want {
			t.Errorf("%s: got %v, want %v", path, st.Mode(), want)
		}
	}
	_, err = Listen(Config{Name: "web"})
	if !errors.Is(err, ErrLive) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("a second: got %v, want %v of our process", err, ErrLive)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(Directory()); !os.IsNotExist(err) {
		t.Errorf("the directory is left behind: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
}

// leave makes a socket as one who was killed leaves it.
func leave(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

// TestStale wants what dead instances leave taken over or swept, and nothing
// else.
func TestStale(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	leave(t, Path("web"))
	leave(t, Path("other"))
	s, err := Listen(Config{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.WriteFile(Path("file"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Config{Name: "file"}); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file: got %v, want %v", err, os.ErrExist)
	}
	if err := Sweep(); err != nil {
		t.Error(err)
	}
	if got, want := strings.Join(Names(), " "), "file web"; got != want {
		t.Errorf("left: got %q, want %q", got, want)
	}
}

// TestUnsafeDirectory wants no socket where others could have put it, or could
// take it away.
func TestUnsafeDirectory(t *testing.T) {
	run := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", run)
	if err := os.Mkdir(Directory(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(Directory(), 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Config{Name: "x"}); err == nil {
		t.Error("a directory of a group: got no error")
	}
	if found, err := List(t.Context()); err == nil {
		t.Errorf("a directory of a group: got %v, want an error", found)
	}
	if err := os.Remove(Directory()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), Directory()); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Config{Name: "x"}); err == nil {
		t.Error("a link: got no error")
	}
	if _, err := Listen(Config{Path: filepath.Join(run, strings.Repeat("x", maxPath))}); err == nil {
		t.Error("a long path: got no error")
	}
	if _, err := Listen(Config{Path: filepath.Join(run, "none", "x")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: got %v, want %v", err, os.ErrNotExist)
	}
}

// TestLockedDirectory has somebody else lock a directory for good: anybody who can
// read it, or an instance that was stopped.
func TestLockedDirectory(t *testing.T) {
	for mode, want := range map[os.FileMode]error{0o700: errLocked, 0o755: errLockedByOthers} {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		if s, err := Listen(Config{Path: filepath.Join(dir, "x")}); !errors.Is(err, want) {
			t.Errorf("mode %#o: got %v and error %v, want %v", mode, s, err, want)
		}
	}
}

// TestPasses wants the server to accept again after the errors that pass.
func TestPasses(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{unix.ENOMEM: true, unix.ENOBUFS: true, unix.EMFILE: true, unix.EINVAL: false} {
		err := passes(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", errno)})
		temporary, ok := err.(interface{ Temporary() bool }) // as package http asks
		if got := ok && temporary.Temporary(); got != want || !errors.Is(err, errno) {
			t.Errorf("%v: got %v, passes %v, want %v", errno, err, got, want)
		}
	}
}

// TestNotOurs wants a socket that somebody has put in the place of ours left
// alone.
func TestNotOurs(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	s, err := Listen(Config{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.Path()); err != nil {
		t.Fatal(err)
	}
	leave(t, s.Path())
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.Path()); err != nil {
		t.Errorf("somebody else's: %v", err)
	}
}

// TestManyListen has instances come and go at once: each gets its directory.
func TestManyListen(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			s, err := Listen(Config{Name: "n" + strconv.Itoa(i%25)})
			if errors.Is(err, ErrLive) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := os.Lstat(Directory()); !os.IsNotExist(err) {
		t.Errorf("the directory is left behind: %v", err)
	}
}

func TestList(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if found, err := List(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("got %v and error %v, want none", found, err)
	}
	s, err := Listen(Config{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context(), newFakeInstance(), nil) }()
	leave(t, Path("dead"))
	found, err := List(t.Context())
	if err != nil || len(found) != 1 || found[0].Name != "web" || found[0].Info.Name != "web" {
		t.Errorf("got %+v and error %v, want web", found, err)
	}
	if got := strings.Join(Names(), " "); got != "web" {
		t.Errorf("left: got %q, want web", got)
	}
	s.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// BenchmarkListen is what a start and an end pay for the socket.
func BenchmarkListen(b *testing.B) {
	b.Setenv("XDG_RUNTIME_DIR", b.TempDir())
	for b.Loop() {
		s, err := Listen(Config{Name: "web"})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
