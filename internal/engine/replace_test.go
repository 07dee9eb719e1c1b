package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"taproot/test/settle"
)

// program copies this test to a file with a mode, and returns its path.
func program(t *testing.T, mode os.FileMode) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "engine")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// restartNow asks for another engine.
func (k *keeping) restartNow(t *testing.T, binary string) error {
	t.Helper()
	return (&Instance{supervisor: k.supervisor}).Restart(t.Context(), binary)
}

// TestRestartBusy wants a request to wait for who serves it, and only one.
func TestRestartBusy(t *testing.T) {
	s := &supervisor{restartRequests: make(chan restartRequest), kept: make(chan struct{})}
	i := &Instance{supervisor: s}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- i.Restart(ctx, "") }()
	settle.Until(t, "it is asked for", s.restarting.Load)
	if err := i.Restart(t.Context(), ""); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: got %v, want %v", err, ErrBusy)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("nobody serves it: got %v, want %v", err, context.Canceled)
	}
	close(s.kept)
	if err := i.Restart(t.Context(), ""); !errors.Is(err, ErrNoEngine) {
		t.Errorf("after the end: got %v, want %v", err, ErrNoEngine)
	}
}

// TestReplace wants an engine to be replaced by one of another program, which is
// the program from then on.
func TestReplace(t *testing.T) {
	k := newKeeping(t, "stay")
	events, stop := k.events.listen()
	defer stop()
	path := program(t, 0o755)
	old := k.current()
	if err := k.restartNow(t, path); err != nil {
		t.Fatal(err)
	}
	if k.current() == old || k.current().version != "fake" {
		t.Errorf("got %+v, want another engine", k.current())
	}
	if err := os.Remove(path); err != nil { // it is open
		t.Fatal(err)
	}
	if err := k.restartNow(t, ""); err != nil {
		t.Fatal(err)
	}
	k.endTrial()
	if err := k.current().process.Kill(); err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "the last engine runs", func() bool { return countLives(t) == 4 && k.status().Engine == EngineRunning })
	if got := k.status(); got.Restarts != 3 || got.Binary != path {
		t.Errorf("got %+v, want 3 restarts, and %s", got, path)
	}
	var got []string
	for range 6 {
		e := <-events
		got = append(got, string(e.Kind)+" "+e.Why)
	}
	want := []string{"engine-replaced " + path, "engine-started ", "engine-replaced " + path, "engine-started ", "engine-died signal: killed", "engine-started "}
	if !slices.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
}

// TestReplaceFails wants the engine to stay when the other does not come up.
func TestReplaceFails(t *testing.T) {
	const soon = 100 * time.Millisecond
	tests := []struct {
		name, script, path, want string
		beat                     time.Duration // of the other one only
	}{
		{"it dies", "stay die", "", "the engine stays as it is: engine: exit status 3", 0},
		{"it refuses", "stay fail", "", "start the engine: as told", 0},
		{"it is no engine", "stay stranger", "", "it is no engine", 0},
		{"it is too new", "stay future", "", "speaks protocol 2, this instance 1", 0},
		{"it hangs", "stay stuck", "", "no sign of life", soon},
		{"a program that knows no engines", "stay", "/bin/true", "exit status 0", 0},
		{"no program", "stay", "/etc/passwd", "execute /etc/passwd: permission denied", 0},
		{"nothing", "stay", "/nowhere", "open /nowhere: no such file", 0},
		{"a directory", "stay", "/", "execute /: not a regular file", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKeeping(t, tt.script)
			k.beat = tt.beat
			old := k.current()
			if err := k.restartNow(t, tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
			if got := k.status(); k.current() != old || got.Engine != EngineRunning || got.Restarts != 0 || got.Binary != "" {
				t.Errorf("got %+v, want the old engine", got)
			}
		})
	}
}

// TestNotTakenOver wants the error of an engine that is gone when its turn comes, and
// a third one to run.
func TestNotTakenOver(t *testing.T) {
	k := newKeeping(t, "stay ready-die stay")
	ctx, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	next, err := k.prepareEngine(t.Context(), testLauncher(newThreads(ctx, &wg)), nil)
	if err != nil {
		t.Fatal(err)
	}
	<-next.exited
	err = k.exchange(t.Context(), newReplacement(next, nil))
	if err == nil || !strings.Contains(err.Error(), "did not take over: engine: exit status 4") {
		t.Errorf("got %v, want how the other engine ended", err)
	}
	settle.Until(t, "another engine runs", func() bool {
		return countLives(t) >= 3 && k.status().Engine == EngineRunning
	})
}

// TestOpenBinary wants programs refused that somebody else may have put there.
func TestOpenBinary(t *testing.T) {
	for mode, want := range map[os.FileMode]error{
		0o755: nil, 0o775: nil, 0o777: errOpenBinary, 0o644: syscall.EACCES,
	} {
		b, err := openBinary(program(t, mode))
		if !errors.Is(err, want) {
			t.Errorf("mode %v: got %v, want %v", mode, err, want)
		}
		b.closeUnless(nil)
	}
	foreign := program(t, 0o755)
	if os.Geteuid() == 0 {
		if err := os.Chown(foreign, 1, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := openBinary(foreign); !errors.Is(err, errForeignBinary) {
			t.Errorf("got %v, want %v", err, errForeignBinary)
		}
	}
}

// TestReplaceAfterEnd wants nobody to wait for an engine when there is none any more.
func TestReplaceAfterEnd(t *testing.T) {
	k := newKeeping(t, "gone")
	<-k.ended
	if err := k.restartNow(t, ""); !errors.Is(err, ErrNoEngine) {
		t.Errorf("got %v, want %v", err, ErrNoEngine)
	}
	k.cancel()
	if err := (&Instance{supervisor: k.supervisor}).Restart(t.Context(), ""); err == nil {
		t.Error("got no error after the end")
	}
}
