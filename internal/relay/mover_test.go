package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taproot/test/settle"
)

// A line is a connection of a Mover between two peers.
type line struct {
	left, right       *net.TCPConn
	outbound, inbound atomic.Int64
	inOrder           bool // valid when ended is closed
	ended             chan struct{}
}

// newLine joins two connections, which the test must bring to their end.
func newLine(t testing.TB, m *Mover) *line {
	t.Helper()
	a, left := connectFD(t)
	b, right := connectFD(t)
	l := &line{left: left, right: right, ended: make(chan struct{})}
	err := m.Join(a, b, Counters{Outbound: &l.outbound, Inbound: &l.inbound}, func(inOrder bool) {
		l.inOrder = inOrder
		close(l.ended)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*net.TCPConn{left, right} {
		c.SetDeadline(time.Now().Add(settle.Patience))
	}
	return l
}

// newMover returns a Mover that runs until the test ends, or stop.
func newMover(t testing.TB, loops int) (m *Mover, stop func()) {
	t.Helper()
	m, err := NewMover(MoverConfig{Loops: loops})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return m, stop
}

// wantEnd waits for the end of the relay.
func (l *line) wantEnd(t *testing.T, inOrder bool) {
	t.Helper()
	select {
	case <-l.ended:
	case <-time.After(settle.Patience):
		t.Fatal("the relay did not end")
	}
	if l.inOrder != inOrder {
		t.Errorf("in order: got %v, want %v", l.inOrder, inOrder)
	}
}

// wantReset wants a peer to see a reset, after data perhaps. A peer that has
// read a FIN reads no error any more, but will not be able to write.
func wantReset(t *testing.T, who string, c *net.TCPConn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	for err == nil {
		runtime.Gosched()
		_, err = c.Write([]byte("x"))
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%s: got %v, want %v or %v", who, err, syscall.ECONNRESET, syscall.EPIPE)
	}
}

// TestMoverBothWays moves 8 MiB each way at the same time, on several
// connections, which share pipes.
func TestMoverBothWays(t *testing.T) {
	const size = 8 << 20
	m, _ := newMover(t, 2)
	var all sync.WaitGroup
	for i := range 3 {
		l := newLine(t, m)
		up, down := pattern(size, byte(i)), pattern(size, byte(100+i))
		all.Go(func() {
			var wg sync.WaitGroup
			for _, w := range []struct {
				to   *net.TCPConn
				sent []byte
			}{{l.left, up}, {l.right, down}} {
				wg.Go(func() {
					if _, err := w.to.Write(w.sent); err != nil {
						t.Error(err)
					}
					w.to.CloseWrite()
				})
			}
			wg.Go(func() {
				got, _ := io.ReadAll(l.right)
				wantBytes(t, "right", got, up)
			})
			got, _ := io.ReadAll(l.left)
			wantBytes(t, "left", got, down)
			wg.Wait()
			l.wantEnd(t, true)
			if out, in := l.outbound.Load(), l.inbound.Load(); out != size || in != size {
				t.Errorf("counters: got %d out and %d in, want %d", out, in, size)
			}
		})
	}
	all.Wait()
}

// TestMoverHalfClose ends one direction and uses the other for a while.
func TestMoverHalfClose(t *testing.T) {
	m, _ := newMover(t, 1)
	l := newLine(t, m)
	question, answer := []byte("question"), pattern(3<<20, 4)
	l.left.Write(question)
	l.left.CloseWrite()
	got, err := io.ReadAll(l.right)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "right", got, question)
	go func() {
		l.right.Write(answer)
		l.right.Close()
	}()
	got, err = io.ReadAll(l.left)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "left", got, answer)
	l.wantEnd(t, true)
}

// TestMoverReset resets one end in every state of the other, and wants the
// other end reset.
func TestMoverReset(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(l *line)
	}{
		{"idle", func(*line) {}},
		{"after its FIN", func(l *line) {
			l.left.CloseWrite()
			io.ReadAll(l.right)
		}},
		{"after the other's FIN", func(l *line) {
			l.right.CloseWrite()
			io.ReadAll(l.left)
		}},
		{"while the other does not read", func(l *line) {
			l.left.SetWriteDeadline(time.Now().Add(settle.Patience / 100))
			for {
				if _, err := l.left.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := newMover(t, 1)
			l := newLine(t, m)
			tt.prepare(l)
			l.left.SetLinger(0)
			l.left.Close()
			wantReset(t, "right", l.right)
			l.wantEnd(t, false)
		})
	}
}

func TestMoverStop(t *testing.T) {
	m, stop := newMover(t, 1)
	l := newLine(t, m)
	stop()
	wantReset(t, "left", l.left)
	wantReset(t, "right", l.right)
	l.wantEnd(t, false)
}

// TestMoverIdle wants a connection that moves nothing to hold nothing but its
// sockets, after it had moved much.
func TestMoverIdle(t *testing.T) {
	m, _ := newMover(t, 2)
	l := newLine(t, m)
	sent := pattern(1<<20, 9)
	go l.left.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(l.right, got); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "right", got, sent)
	l.left.Close()
	l.right.Close()
	l.wantEnd(t, true)
}
