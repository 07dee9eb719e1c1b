package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

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
		prepare func(t *testing.T, l *line)
		reset   func(l *line) (dead, other *net.TCPConn)
	}{
		{"idle", func(*testing.T, *line) {}, left},
		{"after its FIN", func(t *testing.T, l *line) {
			l.left.CloseWrite()
			io.ReadAll(l.right)
		}, left},
		{"after the other's FIN", func(t *testing.T, l *line) {
			l.right.CloseWrite()
			io.ReadAll(l.left)
		}, left},
		{"while the other does not read", func(t *testing.T, l *line) { l.fill(t) }, left},
		{"while it does not read", func(t *testing.T, l *line) { l.fill(t) }, right},
		{"while it does not read, after the other's FIN", func(t *testing.T, l *line) {
			l.fill(t)
			l.left.CloseWrite()
		}, right},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := newMover(t, 1)
			l := newLine(t, m)
			tt.prepare(t, l)
			dead, other := tt.reset(l)
			resetPeer(t, dead)
			wantReset(t, "other", other)
			l.wantEnd(t, false)
		})
	}
}

func left(l *line) (dead, other *net.TCPConn)  { return l.left, l.right }
func right(l *line) (dead, other *net.TCPConn) { return l.right, l.left }

// TestMoverResetBefore resets an end before it is joined.
func TestMoverResetBefore(t *testing.T) {
	m, _ := newMover(t, 1)
	l := prepareLine(t)
	resetPeer(t, l.right)
	l.join(t, m)
	wantReset(t, "left", l.left)
	l.wantEnd(t, false)
}

// TestMoverResetAfterData wants what was sent before a reset to arrive, if there
// is room for it.
func TestMoverResetAfterData(t *testing.T) {
	for _, size := range []int{1, small, 5 * small / 2} {
		m, _ := newMover(t, 1)
		l := newLine(t, m)
		sent := pattern(size, 7)
		l.left.Write(sent)
		resetPeer(t, l.left)
		got, err := io.ReadAll(l.right)
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("right: got %v, want %v", err, syscall.ECONNRESET)
		}
		wantBytes(t, "right", got, sent)
		l.wantEnd(t, false)
	}
}

// TestMoverLastBytes closes right behind the last bytes, so that both come in
// one event, or before the sockets are joined.
func TestMoverLastBytes(t *testing.T) {
	m, _ := newMover(t, 1)
	for i, size := range []int{0, 1, small - 1, small, small + 1, 3 * small, 1 << 20} {
		for range 20 {
			l := prepareLine(t)
			sent := pattern(size, byte(i))
			if i%2 == 0 {
				l.join(t, m)
			}
			var writer sync.WaitGroup
			writer.Go(func() {
				l.left.Write(sent)
				l.left.Close()
			})
			if i%2 != 0 {
				l.join(t, m)
			}
			got, err := io.ReadAll(l.right)
			if err != nil {
				t.Error(err)
			}
			wantBytes(t, "right", got, sent)
			l.right.Close()
			writer.Wait()
			l.wantEnd(t, true)
		}
	}
}

// TestMoverStall has a peer not read until nothing fits any more, and then read
// all, while the other direction moves on.
func TestMoverStall(t *testing.T) {
	m, _ := newMover(t, 1)
	l := newLine(t, m)
	sent := l.fill(t)
	b := make([]byte, 4)
	for range 100 {
		l.right.Write([]byte("ping"))
		if _, err := io.ReadFull(l.left, b); err != nil {
			t.Fatal(err)
		}
	}
	l.left.CloseWrite()
	got, err := io.ReadAll(l.right)
	if err != nil {
		t.Error(err)
	}
	wantBytes(t, "right", got, sent)
	l.right.Close()
	l.wantEnd(t, true)
}

// TestMoverUrgent wants urgent data in its place in the stream, however much
// comes with it.
func TestMoverUrgent(t *testing.T) {
	m, _ := newMover(t, 1)
	l := newLine(t, m)
	raw, err := l.left.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sent []byte
	var writer sync.WaitGroup
	writer.Go(func() {
		for i, size := range []int{0, 1, 100, 2 * small, 300 << 10, 10} {
			b := pattern(size, byte(i))
			l.left.Write(b)
			raw.Write(func(fd uintptr) bool {
				return unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) != syscall.EAGAIN
			})
			sent = append(append(sent, b...), '!')
		}
		l.left.CloseWrite()
	})
	got, err := io.ReadAll(l.right)
	writer.Wait()
	if err != nil {
		t.Error(err)
	}
	wantBytes(t, "right", got, sent)
	l.right.Close()
	l.wantEnd(t, true)
}

// TestMoverNoDescriptors moves much while there is no descriptor for a pipe.
func TestMoverNoDescriptors(t *testing.T) {
	m, _ := newMover(t, 1)
	l := newLine(t, m)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 3, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	sent := pattern(8<<20, 2)
	go func() {
		l.left.Write(sent)
		l.left.Close()
	}()
	got, err := io.ReadAll(l.right)
	if err != nil {
		t.Error(err)
	}
	wantBytes(t, "right", got, sent)
	l.right.Close()
	l.wantEnd(t, true)
}

// TestMoverJoinFails wants the sockets reset, and nobody told, by a Mover that
// has ended and where a socket is none.
func TestMoverJoinFails(t *testing.T) {
	m, stop := newMover(t, 1)
	for _, tt := range []struct {
		name  string
		want  error
		spoil func(l *line)
	}{
		{"no socket", syscall.EBADF, func(l *line) {
			unix.Close(l.b)
			l.b = -1
		}},
		{"ended", os.ErrClosed, func(*line) { stop() }},
	} {
		l := prepareLine(t)
		tt.spoil(l)
		err := m.Join(l.a, l.b, Counters{Outbound: &l.outbound, Inbound: &l.inbound}, func(bool) { t.Error("done was called") })
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		wantReset(t, "left", l.left)
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
// sockets and few spare pipes, after it had moved much, and no pipe to be left
// when there is no connection.
func TestMoverIdle(t *testing.T) {
	m, _ := newMover(t, 1)
	before := settle.Descriptors()
	l := newLine(t, m)
	sent := pattern(8<<20, 9)
	go l.left.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(l.right, got); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "right", got, sent)
	settle.Until(t, "the pipes given back", func() bool { return settle.Descriptors() <= before+4+2*sparePipes })
	l.left.Close()
	l.right.Close()
	l.wantEnd(t, true)
	settle.Until(t, "all closed", func() bool { return settle.Descriptors() <= before })
}

// TestMoverStopBusy stops a Mover that always has something to do.
func TestMoverStopBusy(t *testing.T) {
	for range 20 {
		m, stop := newMover(t, 1)
		var lines []*line
		var wg sync.WaitGroup
		for range 4 {
			l := newLine(t, m)
			lines = append(lines, l)
			wg.Go(func() { io.Copy(io.Discard, l.right) })
			wg.Go(func() { io.Copy(l.left, endless{}) })
		}
		settle.Until(t, "much moved", func() bool { return lines[0].outbound.Load() > 1<<20 })
		stop()
		wg.Wait()
		for _, l := range lines {
			l.wantEnd(t, false)
		}
	}
}

// endless is an io.Reader of anything.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
