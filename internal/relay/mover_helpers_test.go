package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// A line is a connection of a Mover between two peers.
type line struct {
	a, b              int // the Mover's
	left, right       *net.TCPConn
	outbound, inbound atomic.Int64
	inOrder           bool // valid when ended is closed
	ended             chan struct{}
}

// newLine joins two connections, which the test must bring to their end.
func newLine(t testing.TB, m *Mover) *line {
	t.Helper()
	l := prepareLine(t)
	l.join(t, m)
	return l
}

// prepareLine is newLine without Join.
func prepareLine(t testing.TB) *line {
	t.Helper()
	l := &line{ended: make(chan struct{})}
	l.a, l.left = connectFD(t)
	l.b, l.right = connectFD(t)
	for _, fd := range []int{l.a, l.b} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*net.TCPConn{l.left, l.right} {
		c.SetDeadline(time.Now().Add(settle.Patience))
	}
	return l
}

// join has m take the sockets over.
func (l *line) join(t testing.TB, m *Mover) {
	t.Helper()
	err := m.Join(l.a, l.b, Counters{Outbound: &l.outbound, Inbound: &l.inbound}, func(inOrder bool) {
		l.inOrder = inOrder
		close(l.ended)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// fill writes to the left until nothing more fits between it and a right that
// does not read. It returns what was written.
func (l *line) fill(t *testing.T) []byte {
	t.Helper()
	sent := pattern(64<<20, 3)
	n := 0
	for stuck := 0; stuck < 3; {
		l.left.SetWriteDeadline(time.Now().Add(settle.Patience / 500))
		k, err := l.left.Write(sent[n:])
		if n += k; k == 0 {
			stuck++
		}
		if err == nil {
			t.Fatal("64 MiB fit into the buffers")
		}
	}
	l.left.SetWriteDeadline(time.Now().Add(settle.Patience))
	return sent[:n]
}

// resetPeer sends RST.
func resetPeer(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// newMover returns a Mover that runs until the test ends, or stop.
func newMover(t testing.TB, loops int) (m *Mover, stop func()) {
	t.Helper()
	m, err := NewMover(MoverConfig{Loops: loops})
	if err != nil {
		t.Fatal(err)
	}
	stop = runMover(t, m)
	t.Cleanup(stop)
	return m, stop
}

// runMover runs a Mover until stop, which waits for its end.
func runMover(t testing.TB, m *Mover) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
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
