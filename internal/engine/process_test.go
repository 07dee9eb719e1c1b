package engine

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
	"taproot/test/settle"
)

// A full writer takes nothing until it is released.
type full struct {
	begun    sync.Once
	writing  chan struct{} // closed when somebody has begun to write
	released chan struct{}
}

func (f *full) Write(b []byte) (int, error) {
	f.begun.Do(func() { close(f.writing) })
	<-f.released
	return len(b), nil
}

// TestFullStderr wants an engine to be stopped although nobody takes what it says.
func TestFullStderr(t *testing.T) {
	setScript(t, "chatty")
	ctx, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	stderr := &full{writing: make(chan struct{}), released: make(chan struct{})}
	defer close(stderr.released)
	p, err := testLauncher(newThreads(ctx, &wg)).start(launch{stderr: stderr})
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-stderr.writing
		p.stop()
	}()
	if err := p.begin(testSpec(t, plan.Offsets{}, Config{}), device(t)); err != nil {
		t.Error(err)
	}
	select {
	case <-stopped:
	case <-time.After(settle.Patience):
		t.Fatal("the engine is waited for")
	}
}

// TestAllSaid wants all to be passed on that an engine says before it dies.
func TestAllSaid(t *testing.T) {
	setScript(t, "last-words")
	ctx, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	var stderr strings.Builder // read when all is passed on
	p, err := testLauncher(newThreads(ctx, &wg)).start(launch{stderr: &stderr})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.begin(testSpec(t, plan.Offsets{}, Config{}), device(t)); err != nil {
		t.Error(err)
	}
	<-p.exited
	p.wire.close()
	if got, want := stderr.String(), strings.Repeat("word\n", words); got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

// TestInherited wants the engine to let go of what the supervisor's caller has
// open: whoever waits for the end of it would wait for ours.
func TestInherited(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], 0); err != nil { // not closed on exec
		t.Fatal(err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	r := os.NewFile(uintptr(fds[0]), "pipe")
	defer r.Close()

	setScript(t, "stay")
	ctx, release := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	p, err := testLauncher(newThreads(ctx, &wg)).start(launch{stderr: os.Stderr})
	unix.Close(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if err := p.begin(testSpec(t, plan.Offsets{}, Config{}), device(t)); err != nil {
		t.Fatal(err)
	}
	if err := p.ready(); err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(settle.Patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("the caller's pipe: got %d bytes and error %v, want its end", n, err)
	}
}
