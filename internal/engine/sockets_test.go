package engine

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// TestGuestSocketsLost has a reply whose sockets did not arrive, because this
// process can have no more descriptors. Who waits is told, and does not ask
// again at once: it would be told the same, as fast as the supervisor can make
// sockets.
func TestGuestSocketsLost(t *testing.T) {
	asked := 0
	var g *guestSockets
	g = newGuestSockets(func(r socketRequest) error {
		asked++
		go g.put(&socketReply{Request: r}, nil)
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), settle.Patience)
	defer cancel()
	if _, err := g.get(ctx, unix.AF_INET, unix.SOCK_STREAM); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("got %v, want %v", err, syscall.EMFILE)
	}
	if asked != 1 {
		t.Errorf("asked: got %d times, want once", asked)
	}
}

// TestGuestSockets wants one socket for each who asks, in whatever order they
// and the supervisor come, and the supervisor's words if there is none.
func TestGuestSockets(t *testing.T) {
	requests := make(chan socketRequest, 8)
	g := newGuestSockets(func(r socketRequest) error {
		requests <- r
		return nil
	})
	defer g.close()
	ctx, cancel := context.WithTimeout(t.Context(), settle.Patience)
	defer cancel()
	results := make(chan error, 3)
	for range 3 {
		go func() {
			f, err := g.get(ctx, unix.AF_INET, unix.SOCK_STREAM)
			if err == nil {
				err = f.Close()
			}
			results <- err
		}()
	}
	g.put(&socketReply{Request: <-requests}, files(t, 2))
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	g.put(&socketReply{Request: <-requests, Error: "as told"}, nil)
	if err := <-results; err == nil || err.Error() != "as told" {
		t.Errorf("got %v, want the supervisor's words", err)
	}

	late, end := context.WithTimeout(ctx, time.Millisecond)
	defer end()
	if _, err := g.get(late, unix.AF_INET6, unix.SOCK_DGRAM); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a reply: got %v, want %v", err, context.DeadlineExceeded)
	}
}

// files returns n files that stand for sockets.
func files(t *testing.T, n int) []*os.File {
	t.Helper()
	var list []*os.File
	for range n {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}
