package relay

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// A modelEnd is a peer of a Mover's connection, with what must hold of it.
type modelEnd struct {
	fd      int
	written int // bytes that its kernel took
	read    int // bytes that it got
	fin     bool
	reset   bool
	gotFIN  bool
	gotRST  bool
}

// A model is a connection of a Mover of which a schedule says what its peers do.
type model struct {
	ends    [2]modelEnd
	joined  [2]int // the Mover's
	count   [2]atomic.Int64
	ended   chan bool
	scratch []byte
}

// octet is what stands at a position of what an end sends.
func octet(side, at int) byte { return byte(at ^ at>>8 ^ at>>16 ^ side*0x5a) }

// unjoined makes two connections with small buffers.
func unjoined(t testing.TB) *model {
	t.Helper()
	s := &model{ended: make(chan bool, 1), scratch: make([]byte, 1<<18)}
	for i := range s.ends {
		s.joined[i], s.ends[i].fd = tcpPair(t)
		for _, fd := range []int{s.joined[i], s.ends[i].fd} {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10)
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10)
		}
	}
	return s
}

// newModel joins two connections.
func newModel(t testing.TB, m *Mover) *model {
	t.Helper()
	s := unjoined(t)
	err := m.Join(s.joined[0], s.joined[1], Counters{Outbound: &s.count[0], Inbound: &s.count[1]}, func(inOrder bool) { s.ended <- inOrder })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tcpPair returns the two ends of a connection, both non-blocking.
func tcpPair(t testing.TB) (a, b int) {
	t.Helper()
	f, c := connect(t)
	defer f.Close()
	defer c.Close()
	dup := func(c syscall.Conn) (fd int) {
		raw, err := c.SyscallConn()
		if err == nil {
			err = raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
		}
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	return dup(f), dup(c)
}

// step does what two bytes of a schedule say.
func (s *model) step(op, size byte) error {
	side := int(op & 1)
	e := &s.ends[side]
	n := int(size)
	switch op >> 1 & 7 {
	case 0:
		return s.write(side, n)
	case 1:
		return s.write(side, n<<10)
	case 2, 3:
		return s.take(side, n)
	case 4, 5:
		return s.take(side, n<<10)
	case 6:
		if size < 64 && !e.reset {
			e.fin = true
			_ = unix.Shutdown(e.fd, unix.SHUT_WR)
		}
	case 7:
		if size < 16 && !e.reset {
			s.resetEnd(side)
		}
	}
	return nil
}

// write writes n bytes, or as many as fit.
func (s *model) write(side, n int) error {
	e := &s.ends[side]
	if e.fin || e.reset || n == 0 {
		return nil
	}
	b := s.scratch[:min(n, len(s.scratch))]
	for i := range b {
		b[i] = octet(side, e.written+i)
	}
	n, err := send(int32(e.fd), b)
	e.written += n
	switch {
	case err == nil, err == syscall.EAGAIN:
		return nil
	case s.ends[1-side].reset && (err == syscall.ECONNRESET || err == syscall.EPIPE):
		e.gotRST = true
		return nil
	}
	return fmt.Errorf("write to end %d: %w", side, err)
}

// take reads at most n bytes, which must be the next ones that were sent.
func (s *model) take(side, n int) error {
	e, from := &s.ends[side], &s.ends[1-side]
	if e.reset || e.gotRST || e.gotFIN || n == 0 {
		return nil
	}
	b := s.scratch[:min(n, len(s.scratch))]
	n, err := receive(uintptr(e.fd), b)
	for i, got := range b[:n] {
		if want := octet(1-side, e.read+i); got != want {
			return fmt.Errorf("end %d: byte %d: got %#x, want %#x", side, e.read+i, got, want)
		}
	}
	e.read += n
	switch {
	case e.read > from.written:
		return fmt.Errorf("end %d: got %d bytes, want %d at most", side, e.read, from.written)
	case err == nil, err == syscall.EAGAIN:
		return nil
	case err == io.EOF && e.gotRST, err == syscall.EPIPE && from.reset, err == syscall.ECONNRESET && from.reset:
		e.gotRST = true
		return nil
	case err == io.EOF && from.fin && e.read == from.written:
		e.gotFIN = true
		return nil
	}
	return fmt.Errorf("end %d: got %w after %d of %d bytes", side, err, e.read, from.written)
}

func (s *model) resetEnd(side int) {
	e := &s.ends[side]
	e.reset = true
	_ = unix.SetsockoptLinger(e.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(e.fd)
}

// finish lets both ends send FIN and read all, and wants the end of the
// connection to be as it must.
func (s *model) finish(t testing.TB) {
	t.Helper()
	for side := range s.ends {
		if e := &s.ends[side]; !e.reset {
			e.fin = true
			_ = unix.Shutdown(e.fd, unix.SHUT_WR)
		}
	}
	settle.Until(t, "the end of what both sent", func() bool {
		over := true
		for side := range s.ends {
			if err := s.take(side, len(s.scratch)); err != nil {
				t.Fatal(err)
			}
			e := &s.ends[side]
			over = over && (e.reset || e.gotFIN || e.gotRST)
		}
		return over
	})
	anyReset := s.ends[0].reset || s.ends[1].reset
	if inOrder := <-s.ended; !inOrder && !anyReset || inOrder && !(s.ends[0].fin && s.ends[1].fin) {
		t.Errorf("in order: got %v; ends %+v", inOrder, s.ends)
	}
	for side := range s.ends {
		e, to := &s.ends[side], &s.ends[1-side]
		if !e.reset {
			unix.Close(e.fd)
		}
		if got := int(s.count[side].Load()); got < to.read || got > e.written || !anyReset && got != e.written {
			t.Errorf("counter of end %d: got %d, want %d to %d", side, got, to.read, e.written)
		}
	}
}

// play plays a schedule.
func play(t testing.TB, m *Mover, schedule []byte) {
	t.Helper()
	s := newModel(t, m)
	for ; len(schedule) >= 2; schedule = schedule[2:] {
		if err := s.step(schedule[0], schedule[1]); err != nil {
			t.Error(err)
			break
		}
	}
	s.finish(t)
}

// TestMoverSchedules plays schedules at random.
func TestMoverSchedules(t *testing.T) {
	m, _ := newMover(t, 1)
	for i := range uint64(300) {
		random := rand.New(rand.NewPCG(i, 0))
		schedule := make([]byte, 2*random.IntN(200))
		for i := range schedule {
			schedule[i] = byte(random.Uint32())
		}
		play(t, m, schedule)
		if t.Failed() {
			t.Fatalf("schedule %d", i)
		}
	}
}

// FuzzMover plays what the fuzzer finds.
func FuzzMover(f *testing.F) {
	f.Add([]byte{0, 1, 5, 1, 14, 0})
	f.Add([]byte{2, 255, 2, 255, 2, 255, 13, 1, 8, 255, 8, 255})
	f.Add(bytes.Repeat([]byte{3, 200, 8, 100}, 50))
	m, err := NewMover(MoverConfig{Loops: 1})
	if err != nil {
		f.Fatal(err)
	}
	go m.Run(f.Context())
	f.Fuzz(func(t *testing.T, schedule []byte) { play(t, m, schedule) })
}
