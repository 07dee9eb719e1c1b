package engine

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
	"taproot/test/settle"
)

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
