package engine

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

// pipeEnd returns a file, and whether somebody has closed it.
func pipeEnd(t *testing.T) (f *os.File, closed func() bool) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return w, func() bool { return errors.Is(w.Close(), os.ErrClosed) }
}

func TestUnixSockets(t *testing.T) {
	f, _ := pipeEnd(t)
	for _, tt := range []struct {
		name  string
		reply connectReply
		files []*os.File
		want  error
	}{
		{"a socket", connectReply{}, []*os.File{f}, nil},
		{"refused", connectReply{Errno: syscall.ECONNREFUSED, Error: "connect unix:/a"}, nil, syscall.ECONNREFUSED},
		{"lost on the way", connectReply{}, nil, syscall.EMFILE},
	} {
		var u *unixSockets
		u = newUnixSockets(func(r connectRequest) error {
			if r.Rule != 7 {
				t.Errorf("%s: rule: got %d, want 7", tt.name, r.Rule)
			}
			stale, closed := pipeEnd(t)
			u.put(&connectReply{ID: r.ID - 1}, []*os.File{stale}) // what nobody waits for
			if !closed() {
				t.Errorf("%s: a socket that nobody wants is open", tt.name)
			}
			tt.reply.ID = r.ID
			u.put(&tt.reply, tt.files)
			return nil
		})
		got, err := u.connect(t.Context(), 7)
		if !errors.Is(err, tt.want) || tt.want == nil && (err != nil || got != f) {
			t.Errorf("%s: got %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// TestUnixSocketsGivenUp wants nothing kept for who waits no more.
func TestUnixSocketsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var id uint64
	u := newUnixSockets(func(r connectRequest) error {
		id = r.ID
		cancel()
		return nil
	})
	if _, err := u.connect(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	f, closed := pipeEnd(t)
	u.put(&connectReply{ID: id}, []*os.File{f})
	if !closed() {
		t.Error("a socket that came too late is open")
	}
	gone := errors.New("gone")
	u.request = func(connectRequest) error { return gone }
	for range maxConnects + 1 { // each gives its place back
		if _, err := u.connect(t.Context(), 1); !errors.Is(err, gone) {
			t.Errorf("got %v, want %v", err, gone)
		}
	}
}
