package api

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenAsked(t *testing.T) {
	run := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", run)
	for _, tt := range []struct {
		word  string
		path  string // "" for no socket
		fails bool
	}{
		{"", Path("x"), false},
		{"off", "", false},
		{"auto", Path("x"), false},
		{"on", "", true},
		{run + "/socket", run + "/socket", false},
		{run + "/none/socket", "", true},
	} {
		t.Setenv(Variable, tt.word)
		s, err := ListenAsked(Config{Name: "x"})
		if (s != nil) != (tt.path != "") || (err != nil) != tt.fails {
			t.Errorf("%q: got %v and error %v, want %v", tt.word, s, err, tt)
		}
		if s != nil && s.Path() != tt.path {
			t.Errorf("%q: got a socket at %s, want %s", tt.word, s.Path(), tt.path)
		}
		s.Start(t.Context(), newFakeInstance(), nil)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(run); err != nil || len(left) > 0 {
			t.Errorf("%q: left are %v (error %v), want nothing", tt.word, left, err)
		}
	}
}

// TestListenUnasked has no socket where nobody has asked for one and there can be
// none: nobody hears of it but who debugs, and nothing is made.
func TestListenUnasked(t *testing.T) {
	t.Setenv(Variable, "")
	for name, run := range map[string]func(t *testing.T) string{
		"no directory":  func(*testing.T) string { return "" },
		"relative":      func(*testing.T) string { return "." },
		"nothing there": func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") },
		"a file":        func(t *testing.T) string { return write(t, filepath.Join(t.TempDir(), "file")) },
		"not for us":    func(*testing.T) string { return "/proc/self/task" },
		"no room":       func(t *testing.T) string { return filepath.Dir(write(t, filepath.Join(t.TempDir(), "taproot"))) },
		"a long path": func(t *testing.T) string {
			dir := filepath.Join(t.TempDir(), strings.Repeat("x", maxPath))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := run(t)
			t.Setenv("XDG_RUNTIME_DIR", dir)
			before, _ := os.ReadDir(dir) // it may be none
			var said bytes.Buffer
			s, err := ListenAsked(Config{Name: "x", Log: slog.New(slog.NewTextHandler(&said, nil))})
			if s != nil || err != nil {
				t.Errorf("got %v and error %v, want neither", s, err)
			}
			if said.Len() > 0 {
				t.Errorf("said %q, want nothing", said.String())
			}
			if after, _ := os.ReadDir(dir); len(after) != len(before) {
				t.Errorf("there are %v, want %v", after, before)
			}
		})
	}
}

// write makes a file and returns its path.
func write(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBuried wants the sockets of killed instances gone with the next one's start,
// those that live left alone, and the next one's end without a word even if somebody
// has spoilt its directory.
func TestBuried(t *testing.T) {
	t.Setenv(Variable, "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	const noProcess = "2147483647" // more than pid_max can be (proc(5))
	live, err := Listen(Config{Name: "slirp4netns-" + noProcess})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	leave(t, Path("pasta-"+noProcess))
	leave(t, Path("web"))
	write(t, Path("run-"+noProcess))
	var said bytes.Buffer
	s, err := ListenAsked(Config{Name: "x-1", Log: slog.New(slog.NewTextHandler(&said, nil))})
	if s == nil || err != nil {
		t.Fatalf("got %v and error %v, want a socket", s, err)
	}
	if got, want := strings.Join(Names(), " "), "run-"+noProcess+" slirp4netns-"+noProcess+" web x-1"; got != want {
		t.Errorf("left are %q, want %q", got, want)
	}
	if err := os.Chmod(Directory(), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: got %v, want no error", err)
	}
	if err := os.Chmod(Directory(), 0o700); err != nil {
		t.Fatal(err)
	}
	if said.Len() > 0 {
		t.Errorf("said %q, want nothing", said.String())
	}
	if err := os.Remove(s.Path()); err != nil && !errors.Is(err, os.ErrNotExist) { // root can remove it
		t.Error(err)
	}
}
