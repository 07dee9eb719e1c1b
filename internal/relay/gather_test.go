package relay

import (
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// A gathering is a loop that the test runs by hand, with one connection whose way
// from left to right gathers.
type gathering struct {
	*line
	loop  *loop
	joint *joint
}

func newGathering(t *testing.T) *gathering {
	t.Helper()
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	g := &gathering{line: prepareLine(t), loop: l}
	g.joint = newJoint(g.a, g.b, Counters{Outbound: &g.outbound, Inbound: &g.inbound}, func(bool) {})
	if err := l.add(g.joint); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.end(g.joint, false)
		if n := len(l.gathering); n > 0 {
			t.Errorf("got %d ways that gather after the end, want none", n)
		}
		l.discard()
	})
	w := &g.joint.ways[0]
	w.run = gatherAfter
	g.serveUntil(t, "the way gathers", func() bool {
		if !w.gathers {
			g.left.Write(make([]byte, 2*small))
		}
		g.drain(t)
		return w.gathers
	})
	return g
}

// serveUntil has the loop do what there is to do until condition holds.
func (g *gathering) serveUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	settle.Until(t, what, func() bool {
		g.loop.serve(0)
		return condition()
	})
}

// drain reads what has come to the right.
func (g *gathering) drain(t *testing.T) {
	t.Helper()
	raw, err := g.right.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	_ = raw.Read(func(fd uintptr) bool {
		for {
			if n, err := unix.Read(int(fd), b); n <= 0 || err != nil {
				return true
			}
		}
	})
}

// lowWater returns how many bytes make the left's socket readable.
func (g *gathering) lowWater(t *testing.T) int {
	t.Helper()
	n, err := unix.GetsockoptInt(g.a, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wantHasty wants every byte to be told of.
func (g *gathering) wantHasty(t *testing.T) {
	t.Helper()
	if g.joint.ways[0].gathers || len(g.loop.gathering) > 0 {
		t.Error("the way gathers, want it not to")
	}
	if got := g.lowWater(t); got != 1 {
		t.Errorf("low-water mark: got %d, want 1", got)
	}
}

// TestGatherSize looks at what the kernel was told.
func TestGatherSize(t *testing.T) {
	if got := newGathering(t).lowWater(t); got < 64<<10 { // the kernel may take less than was asked
		t.Errorf("low-water mark: got %d, want about %d", got, gatherSize)
	}
}

// TestGatherTail sends less than would be told of.
func TestGatherTail(t *testing.T) {
	g := newGathering(t)
	before := g.outbound.Load()
	g.left.Write([]byte("tail"))
	g.serveUntil(t, "the tail is moved", func() bool { return g.outbound.Load() == before+4 })
	g.serveUntil(t, "the way gathers no more", func() bool { return !g.joint.ways[0].gathers })
	g.wantHasty(t)
}

// TestGatherSmallBuffer sends more than a buffer holds that is smaller than the
// low-water mark.
func TestGatherSmallBuffer(t *testing.T) {
	g := newGathering(t)
	if err := unix.SetsockoptInt(g.a, unix.SOL_SOCKET, unix.SO_RCVBUF, g.lowWater(t)/8); err != nil {
		t.Fatal(err)
	}
	const much = 1 << 20
	before := g.outbound.Load()
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.left.Write(make([]byte, much))
	}()
	g.serveUntil(t, "all is moved", func() bool {
		g.drain(t)
		return g.outbound.Load() == before+much
	})
	<-done
}

// TestGatherIdle sends nothing more.
func TestGatherIdle(t *testing.T) {
	g := newGathering(t)
	g.serveUntil(t, "the way gathers no more", func() bool { return !g.joint.ways[0].gathers })
	g.wantHasty(t)
}

// TestGatherAnswer sends a byte the other way.
func TestGatherAnswer(t *testing.T) {
	g := newGathering(t)
	g.right.Write([]byte{1})
	g.serveUntil(t, "the answer is moved", func() bool { return g.inbound.Load() == 1 })
	g.wantHasty(t)
}

// TestGatherEnd sends a little and a FIN.
func TestGatherEnd(t *testing.T) {
	g := newGathering(t)
	before := g.outbound.Load()
	g.left.Write([]byte("end"))
	g.left.CloseWrite()
	g.serveUntil(t, "the FIN is moved", func() bool { return g.joint.ways[0].finished })
	if got := g.outbound.Load() - before; got != 3 {
		t.Errorf("got %d bytes before the FIN, want 3", got)
	}
}

// TestMoverPauses sends much, waits for it to arrive, sends a little, and so on.
func TestMoverPauses(t *testing.T) {
	m, _ := newMover(t, 1)
	l := newLine(t, m)
	much := make([]byte, gatherAfter+3*gatherSize)
	for range 3 {
		for _, size := range []int{len(much), 1, 5000, 100_000} {
			go l.left.Write(much[:size])
			if _, err := io.CopyN(io.Discard, l.right, int64(size)); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
	}
	l.left.Close()
	l.right.Close()
	l.wantEnd(t, true)
}
