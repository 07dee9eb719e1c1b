package relay

import (
	"context"
	"io"
	"sync/atomic"
	"testing"

	"taproot/test/settle"
)

// TestVigil wants a loop to wait by itself while small messages go to and fro, not
// beside anything else, and no longer.
func TestVigil(t *testing.T) {
	var occupied atomic.Int32
	m, err := NewMover(MoverConfig{Loops: 1, Occupied: func(change int) { occupied.Add(int32(change)) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	l := newLine(t, m)
	play := func(until string, reached func() bool) {
		t.Helper()
		settle.Until(t, until, func() bool {
			chat(t, l, 100, 1)
			return reached()
		})
	}
	play("keeps vigil", func() bool { return occupied.Load() == 1 })
	settle.Until(t, "ends when it is quiet", func() bool { return occupied.Load() == 0 })
	play("keeps vigil again", func() bool { return occupied.Load() == 1 })
	newLine(t, m)
	play("ends beside a new connection", func() bool { return occupied.Load() == 0 })
	play("keeps vigil after", func() bool { return occupied.Load() == 1 })
	chat(t, l, 300, 2*little)
	settle.Until(t, "ends beside more than a little", func() bool { return occupied.Load() == 0 })
	play("keeps vigil at the end", func() bool { return occupied.Load() == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := occupied.Load(); n != 0 {
		t.Errorf("after the end: got %d, want 0", n)
	}
}

// chat sends messages of a size to and fro.
func chat(t *testing.T, l *line, n, size int) {
	t.Helper()
	message := pattern(size, 1)
	got := make([]byte, size)
	for range n {
		for _, c := range [][2]io.ReadWriter{{l.left, l.right}, {l.right, l.left}} {
			if _, err := c[0].Write(message); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c[1], got); err != nil {
				t.Fatal(err)
			}
		}
	}
}
