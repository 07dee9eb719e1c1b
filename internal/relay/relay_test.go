package relay

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// TestBothWays moves 8 MiB each way at the same time, through windows that
// fit no piece.
func TestBothWays(t *testing.T) {
	const size = 8 << 20
	for name, window := range map[string]int{"small window": 7000, "usual window": 64 << 10, "large window": 4 << 20} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, window)
			up, down := pattern(size, 1), pattern(size, 2)
			var wg sync.WaitGroup
			wg.Go(func() {
				for at := 0; at < size; at += 100_000 {
					b.guest.send(up[at:min(at+100_000, size)])
				}
				b.guest.sendFIN()
			})
			wg.Go(func() {
				if _, err := b.peer.Write(down); err != nil {
					t.Errorf("peer: %v", err)
				}
				b.peer.CloseWrite()
			})
			wg.Go(func() { wantBytes(t, "peer", b.readAll(t), up) })
			wantBytes(t, "guest", b.guest.takeAll(t), down)
			wg.Wait()
			b.wantEnd(t, true)
			if out, in := b.outbound.Load(), b.inbound.Load(); out != size || in != size {
				t.Errorf("counters: got %d out and %d in, want %d", out, in, size)
			}
		})
	}
}

func TestNothing(t *testing.T) {
	b := newBench(t, 1)
	b.guest.sendFIN()
	b.peer.CloseWrite()
	wantBytes(t, "peer", b.readAll(t), nil)
	wantBytes(t, "guest", b.guest.takeAll(t), nil)
	b.wantEnd(t, true)
}

// TestHalfClose ends one direction and uses the other for a while.
func TestHalfClose(t *testing.T) {
	question, answer := pattern(1<<20, 3), pattern(3<<20, 4)
	t.Run("guest first", func(t *testing.T) {
		b := newBench(t, 64<<10)
		b.guest.send(question)
		b.guest.sendFIN()
		wantBytes(t, "peer", b.readAll(t), question)
		go func() {
			b.peer.Write(answer)
			b.peer.Close()
		}()
		wantBytes(t, "guest", b.guest.takeAll(t), answer)
		b.wantEnd(t, true)
	})
	t.Run("host first", func(t *testing.T) {
		b := newBench(t, 64<<10)
		go func() {
			b.peer.Write(question)
			b.peer.CloseWrite()
		}()
		wantBytes(t, "guest", b.guest.takeAll(t), question)
		b.guest.send(answer)
		b.guest.sendFIN()
		wantBytes(t, "peer", b.readAll(t), answer)
		b.wantEnd(t, true)
	})
}

// TestReset resets one end in every state of the other, and wants the other
// end reset.
func TestReset(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, b *bench)
	}{
		{"idle", func(*testing.T, *bench) {}},
		{"after data", func(t *testing.T, b *bench) {
			b.guest.send(pattern(100, 5))
			b.peer.Write(pattern(100, 6))
			settle.Until(t, "both moved", func() bool { return b.outbound.Load() == 100 && b.inbound.Load() == 100 })
		}},
		{"after the guest's FIN", func(t *testing.T, b *bench) {
			b.guest.sendFIN()
			b.readAll(t)
		}},
		{"after the host's FIN", func(t *testing.T, b *bench) {
			b.peer.CloseWrite()
			b.guest.takeAll(t)
		}},
		{"with the guest's window open", func(t *testing.T, b *bench) {
			go b.peer.Write(pattern(4<<20, 7))
			settle.Until(t, "some moved", func() bool {
				b.guest.take()
				return b.inbound.Load() > 1<<20
			})
		}},
	} {
		t.Run(tt.name+"/guest", func(t *testing.T) {
			b := newBench(t, 64<<10)
			tt.prepare(t, b)
			b.guest.reset()
			b.wantEnd(t, false)
			b.wantReset(t)
		})
		t.Run(tt.name+"/host", func(t *testing.T) {
			b := newBench(t, 64<<10)
			tt.prepare(t, b)
			b.resetPeer(t)
			go func() { // the guest reads on
				for b.outlives() {
					b.guest.take()
				}
			}()
			b.wantEnd(t, false)
		})
	}
}

// TestAnswerBeforeReset has a host that answers and resets while the guest is
// still sending, as servers do that refuse a long request: the guest gets the
// answer.
func TestAnswerBeforeReset(t *testing.T) {
	answer := pattern(2*turn, 8) // more than one turn
	m, stop := newMover(t, 1)
	defer stop()
	host, peer := connectFD(t)
	if err := unix.SetsockoptInt(host, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4*len(answer)); err != nil {
		answer = answer[:64<<10] // what fits any buffer
	}
	b := &bench{guest: newFakeStream(len(answer)), peer: peer, ended: make(chan struct{})}
	if _, err := peer.Write(answer); err != nil {
		t.Fatal(err)
	}
	settle.Until(t, "the answer is there", func() bool {
		n, err := unix.IoctlGetInt(host, unix.TIOCINQ)
		return err == nil && n == len(answer)
	})
	b.resetPeer(t)
	b.guest.send(pattern(1<<20, 9))
	if err := m.JoinStream(b.guest, host, Counters{Outbound: &b.outbound, Inbound: &b.inbound}, b.end); err != nil {
		t.Fatal(err)
	}
	b.wantEnd(t, false)
	got, _ := b.guest.take()
	wantBytes(t, "guest", got, answer)
}

// outlives tells whether the relay still runs.
func (b *bench) outlives() bool {
	select {
	case <-b.ended:
		return false
	case <-time.After(time.Millisecond):
		return true
	}
}

// TestStop ends the relay from outside in every state it can wait in, among
// them those in which no host socket is waited for.
func TestStop(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, b *bench)
	}{
		{"idle", func(*testing.T, *bench) {}},
		{"after the guest's FIN", func(t *testing.T, b *bench) {
			b.guest.sendFIN()
			b.readAll(t)
		}},
		{"after the host's FIN", func(t *testing.T, b *bench) {
			b.peer.CloseWrite()
			b.guest.takeAll(t)
		}},
		{"guest does not read", func(t *testing.T, b *bench) {
			b.peer.Write(pattern(128<<10, 8))
			settle.Until(t, "the window is full", func() bool { return b.inbound.Load() == 64<<10 })
		}},
		{"host does not read", func(t *testing.T, b *bench) {
			b.guest.send(pattern(32<<20, 9))
			settle.Until(t, "the relay rests", func() bool { return b.rests(&b.guest.reads) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, 64<<10)
			tt.prepare(t, b)
			b.stop()
			b.wantEnd(t, false)
			b.wantReset(t)
		})
	}
}

// TestStopBeforeJoin wants a Mover that is over to reset both ends.
func TestStopBeforeJoin(t *testing.T) {
	m, stop := newMover(t, 1)
	stop()
	host, peer := connectFD(t)
	b := &bench{guest: newFakeStream(1), peer: peer, ended: make(chan struct{})}
	err := m.JoinStream(b.guest, host, Counters{Outbound: &b.outbound, Inbound: &b.inbound}, b.end)
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("got error %v, want %v", err, os.ErrClosed)
	}
	b.end(false) // nobody else does
	b.wantEnd(t, false)
	b.wantReset(t)
}

// rests tells whether calls, which are counted, have stopped. They may only
// seem to have: a busy machine can keep a relay from running for so long.
func (b *bench) rests(calls interface{ Load() int64 }) bool {
	before := calls.Load()
	for range 20 {
		time.Sleep(time.Millisecond) // a busy loop makes thousands of calls meanwhile
	}
	return before > 0 && calls.Load() == before
}

// TestSlowReaders wants the relay to rest while an end takes nothing, and to
// go on when it does.
func TestSlowReaders(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		b := newBench(t, 64<<10)
		sent := pattern(32<<20, 10)
		b.guest.send(sent)
		b.guest.sendFIN()
		settle.Until(t, "the relay rests", func() bool { return b.rests(&b.guest.reads) && b.outbound.Load() > 0 })
		if moved := b.outbound.Load(); moved == int64(len(sent)) {
			t.Errorf("moved: got %d bytes, want some but not all", moved)
		}
		wantBytes(t, "peer", b.readAll(t), sent)
		b.peer.Close()
		b.wantEnd(t, true)
	})
	t.Run("guest", func(t *testing.T) {
		b := newBench(t, 1000)
		sent := pattern(1<<20, 11)
		go func() {
			b.peer.Write(sent)
			b.peer.Close()
		}()
		settle.Until(t, "the relay rests", func() bool { return b.rests(&b.guest.writes) && b.inbound.Load() >= 1000 })
		if moved := b.inbound.Load(); moved != 1000 {
			t.Errorf("moved: got %d bytes, want the window's 1000", moved)
		}
		b.guest.open(64 << 10)
		wantBytes(t, "guest", b.guest.takeAll(t), sent)
		b.guest.sendFIN()
		b.wantEnd(t, true)
	})
}

// TestIdleMakesNoCalls wants a relay without traffic to do nothing.
func TestIdleMakesNoCalls(t *testing.T) {
	b := newBench(t, 1000)
	settle.Until(t, "the relay rests", func() bool { return b.rests(&b.guest.reads) })
	if n := b.guest.reads.Load(); n > 3 {
		t.Errorf("reads: got %d, want 3 at most", n)
	}
	b.guest.sendFIN()
	b.peer.Close()
	b.wantEnd(t, true)
}

func TestResetFunction(t *testing.T) {
	host, peer := connect(t)
	Reset(host)
	b := &bench{peer: peer}
	b.wantReset(t)
	if _, err := host.Write(nil); err == nil {
		t.Error("host: got no error, want it closed")
	}
}

// TestJoinNoSocket wants a host's end that is no socket to reset the guest.
func TestJoinNoSocket(t *testing.T) {
	m, _ := newMover(t, 1)
	b := &bench{guest: newFakeStream(1), ended: make(chan struct{})}
	err := m.JoinStream(b.guest, -1, Counters{Outbound: &b.outbound, Inbound: &b.inbound}, b.end)
	if !errors.Is(err, syscall.EBADF) {
		t.Errorf("got error %v, want %v", err, syscall.EBADF)
	}
	b.end(false) // nobody else does
	b.wantEnd(t, false)
}

// TestReceiver wants a payload to deliver what it promised in any pieces, and
// to fail if the socket has less.
func TestReceiver(t *testing.T) {
	for _, tt := range []struct {
		name            string
		there, promised int
		fin             bool
		want            error
	}{
		{"exact", 1000, 1000, false, nil},
		{"less promised", 1000, 400, false, nil},
		{"more promised", 400, 1000, false, syscall.EAGAIN},
		{"more promised, then FIN", 400, 1000, true, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, peer := connectFD(t)
			defer unix.Close(host)
			sent := pattern(tt.there, 12)
			if _, err := peer.Write(sent); err != nil {
				t.Fatal(err)
			}
			settle.Until(t, "the bytes arrived", func() bool { return queued(host) == tt.there })
			if tt.fin {
				peer.CloseWrite()
				fin := []unix.PollFd{{Fd: int32(host), Events: unix.POLLRDHUP}}
				settle.Until(t, "the FIN arrived", func() bool { n, _ := unix.Poll(fin, 0); return n == 1 })
			}
			r := &receiver{fd: uintptr(host), n: tt.promised}
			if n, err := r.Read(nil); n != 0 || err != nil {
				t.Errorf("nothing: got %d and %v", n, err)
			}
			var got []byte
			for r.Len() > 0 && r.err == nil {
				b := make([]byte, 150)
				n, _ := r.Read(b)
				got = append(got, b[:n]...)
			}
			if r.err != tt.want {
				t.Errorf("got %v, want %v", r.err, tt.want)
			}
			wantBytes(t, "payload", got, sent[:min(tt.there, tt.promised)])
		})
	}
}

// TestManyRelays runs many at once; TestMain counts what is left.
func TestManyRelays(t *testing.T) {
	m, _ := newMover(t, 2)
	var wg sync.WaitGroup
	for i := range 200 {
		b := newBenchOn(t, m, 64<<10)
		wg.Go(func() {
			sent := pattern(10_000, byte(i))
			b.guest.send(sent)
			b.guest.sendFIN()
			if _, err := io.Copy(struct{ io.Writer }{b.peer}, b.peer); err != nil { // an echo, without splice and its pipes
				t.Errorf("peer: %v", err)
			}
			b.peer.Close()
			wantBytes(t, "guest", b.guest.takeAll(t), sent)
			b.wantEnd(t, true)
		})
	}
	wg.Wait()
}

// TestResetWhileStalled resets the one end while the other takes nothing.
func TestResetWhileStalled(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		b := newBench(t, 1000)
		b.peer.Write(pattern(100_000, 13))
		settle.Until(t, "the window is full", func() bool { return b.inbound.Load() == 1000 })
		b.resetPeer(t)
		b.wantEnd(t, false)
	})
	t.Run("guest", func(t *testing.T) {
		b := newBench(t, 1000)
		b.guest.send(pattern(32<<20, 14))
		settle.Until(t, "the relay rests", func() bool { return b.rests(&b.guest.reads) })
		b.guest.reset()
		b.wantEnd(t, false)
		b.wantReset(t)
	})
}
