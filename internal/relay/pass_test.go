package relay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// A relayed is a connection that goes from one Mover to the next. It is its Owner.
type relayed struct {
	count  Counters
	done   func(inOrder bool)
	killer interface{ Kill() }
}

func (r *relayed) SetKiller(k interface{ Kill() }) { r.killer = k }

// A succession is one Mover after the other, each with the connections of the one
// before.
type succession struct {
	*Mover
	stop func()
}

func newSuccession(t testing.TB) *succession {
	t.Helper()
	s := &succession{}
	s.next(t)
	return s
}

// next begins another Mover, which has the connections of the one before.
func (s *succession) next(t testing.TB) {
	t.Helper()
	var kept []Passed
	if s.Mover != nil {
		s.Keep()
		s.stop()
		kept = s.Kept()
	}
	m, err := NewMover(MoverConfig{Loops: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i := range kept {
		r := kept[i].Owner.(*relayed)
		if err := m.JoinPassed(&kept[i], r.count, r.done); err != nil {
			t.Fatal(err)
		}
	}
	s.Mover, s.stop = m, runMover(t, m)
}

// join joins two sockets.
func (s *succession) join(t testing.TB, a, b int, out, in *atomic.Int64, done func(bool)) *relayed {
	t.Helper()
	r := &relayed{done: done}
	r.count = Counters{Outbound: out, Inbound: in, Owner: r}
	if err := s.Join(a, b, r.count, done); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPassedSchedules plays schedules at random, with another Mover now and then.
func TestPassedSchedules(t *testing.T) {
	for i := range uint64(100) {
		s := newSuccession(t)
		m := unjoined(t)
		s.join(t, m.joined[0], m.joined[1], &m.count[0], &m.count[1], func(inOrder bool) { m.ended <- inOrder })
		random := rand.New(rand.NewPCG(i, 1))
		for range random.IntN(200) {
			if random.IntN(10) == 0 {
				s.next(t)
			}
			if err := m.step(byte(random.Uint32()), byte(random.Uint32())); err != nil {
				t.Error(err)
				break
			}
		}
		m.finish(t)
		s.stop()
		if t.Failed() {
			t.Fatalf("schedule %d", i)
		}
	}
}

// A stream is what one peer sends to the other, with its hash.
type stream struct {
	from, to *net.TCPConn
	size     int64
	pace     time.Duration // of the reader
}

// run sends and receives all of it, and wants it to arrive as it was sent.
func (s *stream) run(t *testing.T, name string) {
	var wg sync.WaitGroup
	sent, got := sha256.New(), sha256.New()
	wg.Go(func() {
		random := rand.NewChaCha8([32]byte{byte(s.size), byte(s.size >> 8)})
		if _, err := io.CopyN(io.MultiWriter(s.from, sent), random, s.size); err != nil {
			t.Errorf("%s: send: %v", name, err)
		}
		s.from.CloseWrite()
	})
	n, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{slowly{s.to, s.pace}}, make([]byte, 64<<10))
	if err != nil || n != s.size {
		t.Errorf("%s: got %d bytes and %v, want %d", name, n, err, s.size)
	}
	wg.Wait()
	if [32]byte(sent.Sum(nil)) != [32]byte(got.Sum(nil)) {
		t.Errorf("%s: other bytes came than were sent", name)
	}
}

// slowly reads with pauses, so that the sender is held up.
type slowly struct {
	net.Conn
	pause time.Duration
}

func (s slowly) Read(b []byte) (int, error) {
	if s.pause > 0 {
		<-time.After(s.pause)
	}
	return s.Conn.Read(b)
}

// TestPassedUnderLoad moves streams both ways, fast ones and slow ones, while one Mover
// follows the other.
func TestPassedUnderLoad(t *testing.T) {
	s := newSuccession(t)
	var wg sync.WaitGroup
	var lines []*line
	for i := range 12 {
		l := prepareLine(t)
		lines = append(lines, l)
		s.join(t, l.a, l.b, &l.outbound, &l.inbound, func(inOrder bool) {
			l.inOrder = inOrder
			close(l.ended)
		})
		pace := time.Duration(i%3) * time.Millisecond
		there := stream{l.left, l.right, int64(1+i) << 20, pace}
		back := stream{l.right, l.left, int64(12-i) << 20, 0}
		wg.Go(func() { there.run(t, "there") })
		wg.Go(func() { back.run(t, "back") })
	}
	idle := prepareLine(t)
	s.join(t, idle.a, idle.b, &idle.outbound, &idle.inbound, func(inOrder bool) {
		idle.inOrder = inOrder
		close(idle.ended)
	})
	over := make(chan struct{})
	go func() {
		wg.Wait()
		close(over)
	}()
	movers := 1
	for running := true; running; {
		select {
		case <-over:
			running = false
		case <-time.After(5 * time.Millisecond):
			s.next(t)
			movers++
		}
	}
	t.Logf("%d Movers", movers)
	for i, l := range lines {
		l.wantEnd(t, true)
		if out, in := l.outbound.Load(), l.inbound.Load(); out != int64(1+i)<<20 || in != int64(12-i)<<20 {
			t.Errorf("line %d: counted %d and %d bytes", i, out, in)
		}
	}
	idle.left.CloseWrite()
	idle.right.CloseWrite()
	idle.wantEnd(t, true)
	s.stop()
}

// TestPassedStates passes a connection on in each state in which it may be.
func TestPassedStates(t *testing.T) {
	tests := map[string]struct {
		before func(t *testing.T, l *line) // both ends are read by after
		after  func(t *testing.T, l *line)
		order  bool
	}{
		"idle": {func(*testing.T, *line) {}, func(t *testing.T, l *line) {
			wantRelay(t, l.left, l.right, "x")
			wantRelay(t, l.right, l.left, "y")
			l.left.CloseWrite()
			l.right.CloseWrite()
		}, true},
		"half closed": {func(t *testing.T, l *line) {
			l.left.CloseWrite()
			wantEOF(t, l.right)
		}, func(t *testing.T, l *line) {
			wantRelay(t, l.right, l.left, "still")
			l.right.CloseWrite()
			wantEOF(t, l.left)
		}, true},
		"half closed, and much to come": {func(t *testing.T, l *line) {
			l.left.CloseWrite()
			wantEOF(t, l.right)
			writeAll(t, l.right)
		}, func(t *testing.T, l *line) {
			l.right.CloseWrite()
			wantAll(t, l.left)
		}, true},
		"both have sent all": {func(t *testing.T, l *line) {
			l.left.CloseWrite()
			wantEOF(t, l.right)
			writeAll(t, l.right)
			l.right.CloseWrite()
			settle.Until(t, "the connection is over at one end", func() bool {
				_, err := unix.Getpeername(l.b)
				return err == unix.ENOTCONN
			})
		}, func(t *testing.T, l *line) { wantAll(t, l.left) }, true},
		"reset later": {func(*testing.T, *line) {}, func(t *testing.T, l *line) {
			resetPeer(t, l.left)
			wantReset(t, "the other", l.right)
		}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSuccession(t)
			defer func() { s.stop() }()
			l := prepareLine(t)
			s.join(t, l.a, l.b, &l.outbound, &l.inbound, func(inOrder bool) {
				l.inOrder = inOrder
				close(l.ended)
			})
			_ = unix.SetsockoptInt(l.a, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10) // so that bytes are held
			l.left.SetReadBuffer(8 << 10)
			_ = unix.SetsockoptInt(l.b, unix.SOL_SOCKET, unix.SO_RCVBUF, 4*much) // and all comes at once
			tt.before(t, l)
			s.next(t)
			s.next(t)
			tt.after(t, l)
			l.wantEnd(t, tt.order)
		})
	}
}

// much is how much fits between two peers one of which has small buffers.
const much = 128 << 10

func writeAll(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Write(pattern(much, 1)); n < much || err != nil {
		t.Fatalf("wrote %d bytes: %v", n, err)
	}
}

func wantAll(t *testing.T, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); err != nil || !bytes.Equal(b, pattern(much, 1)) {
		t.Errorf("got %d bytes and %v, want what was sent", len(b), err)
	}
}

// wantRelay wants what one peer sends to reach the other.
func wantRelay(t *testing.T, from, to net.Conn, words string) {
	t.Helper()
	if _, err := from.Write([]byte(words)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(words))
	if _, err := io.ReadFull(to, b); err != nil || string(b) != words {
		t.Errorf("got %q and %v, want %q", b, err, words)
	}
}

func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("got %d bytes and %v, want %v", n, err, io.EOF)
	}
}

// TestPassedKill wants the owner of a connection to be able to end it in the Mover
// that has it.
func TestPassedKill(t *testing.T) {
	s := newSuccession(t)
	defer func() { s.stop() }()
	l := prepareLine(t)
	r := s.join(t, l.a, l.b, &l.outbound, &l.inbound, func(inOrder bool) {
		l.inOrder = inOrder
		close(l.ended)
	})
	s.next(t)
	r.killer.Kill()
	l.wantEnd(t, false)
}

// TestPassedLies gives a Mover descriptions that no other has made: it refuses those
// that it can tell, and resets the connection of others.
func TestPassedLies(t *testing.T) {
	refused := map[string]func(*Passed){
		"less than nothing":  func(p *Passed) { p.Held[0] = -1 },
		"too much":           func(p *Passed) { p.Held[1] = pipeSize + 1 },
		"more after the end": func(p *Passed) { p.Held[0], p.Finished[0] = 1, true },
		"an end of both":     func(p *Passed) { p.Finished = [2]bool{true, true} },
		"no socket":          func(p *Passed) { p.Ends[0] = none },
	}
	m, _ := newMover(t, 1)
	for name, lie := range refused {
		l := prepareLine(t)
		p := Passed{Ends: [2]int{l.a, l.b}}
		lie(&p)
		if err := m.JoinPassed(&p, Counters{Outbound: &l.outbound, Inbound: &l.inbound}, nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
		for _, fd := range []int{l.a, l.b} {
			unix.Close(fd)
		}
	}
	for name, pipe := range map[string]func(t *testing.T) int{
		"no pipe": func(*testing.T) int { fd, _ := unix.Open("/dev/null", unix.O_RDONLY, 0); return fd },
		"less in the pipe": func(t *testing.T) int {
			p, ok := newPipeOf(small)
			if !ok {
				t.Fatal("no pipe")
			}
			unix.Write(int(p.w), []byte("x"))
			p.closeWrite()
			return int(p.r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := prepareLine(t)
			p := Passed{Ends: [2]int{l.a, l.b}, Held: [2]int{100, 0}}
			p.Pipes[0] = pipe(t)
			err := m.JoinPassed(&p, Counters{Outbound: &l.outbound, Inbound: &l.inbound}, func(inOrder bool) {
				l.inOrder = inOrder
				close(l.ended)
			})
			if err != nil {
				t.Fatal(err)
			}
			l.wantEnd(t, false)
			wantReset(t, "one end", l.left)
		})
	}
}

// TestPassedReset wants both ends and what is held to be closed.
func TestPassedReset(t *testing.T) {
	s := newSuccession(t)
	l := prepareLine(t)
	s.join(t, l.a, l.b, &l.outbound, &l.inbound, func(bool) {})
	l.fill(t)
	s.Keep()
	s.stop()
	kept := s.Kept()
	if len(kept) != 1 || kept[0].Held[0] == 0 || len(kept[0].Descriptors()) != 3 {
		t.Fatalf("got %+v, want a connection that holds bytes", kept)
	}
	before := settle.Descriptors()
	kept[0].Reset()
	if got := settle.Descriptors(); got != before-3 {
		t.Errorf("descriptors: got %d, want %d", got, before-3)
	}
	wantReset(t, "one end", l.left)
	wantReset(t, "the other", l.right)
}
