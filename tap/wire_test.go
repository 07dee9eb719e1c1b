package tap_test

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"taproot/tap"
	"taproot/tap/taptest"
	"taproot/test/settle"
)

func newPair(t testing.TB) (a, b *tap.Device) {
	t.Helper()
	a, b, err := taptest.Pair(tap.Features{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// run runs a reader on a goroutine that has ended when the test ends. The
// channel gets what Run returned.
func run(r *tap.Reader, frame func(n int)) <-chan error {
	done := make(chan error, 1)
	go func() { done <- r.Run(frame) }()
	return done
}

// next returns the next element of c.
func next[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(settle.Patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// send writes one frame from pieces.
func send(t testing.TB, w *tap.Writer, pieces ...[]byte) {
	t.Helper()
	for _, p := range pieces {
		w.Add(p)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// count returns n bytes that are all different from their neighbours.
func count(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}

// TestFrames sends frames of many sizes, in few and in many pieces, and wants
// them back whole and in order, spread over the reader's buffers.
func TestFrames(t *testing.T) {
	a, b := newPair(t)
	sizes := []int{1, 14, 15, 60, 66, 67, 1514, 8192, 65549}
	pieces := []int{1, 2, 34, 35, 36, 37, 100}
	got := make(chan []byte, len(sizes)*len(pieces))
	first, second, rest := make([]byte, 14), make([]byte, 50), make([]byte, 65536)
	done := run(a.NewReader(first, second, rest), func(n int) {
		all := append(append(bytes.Clone(first), second...), rest...)
		got <- all[:n]
	})
	w := b.NewWriter()
	for _, size := range sizes {
		for _, n := range pieces {
			frame := count(size)
			var cut [][]byte
			for i := range n {
				cut = append(cut, frame[i*size/n:(i+1)*size/n])
			}
			send(t, w, cut...)
			if f := next(t, "frame", got); !bytes.Equal(f, frame) {
				t.Errorf("%d bytes in %d pieces: got %d bytes, want those sent", size, n, len(f))
			}
		}
	}
	b.Close()
	if err := next(t, "end", done); err != nil {
		t.Errorf("run: got %v at the end of the wire, want nil", err)
	}
	if n := b.Dropped(); n != 0 {
		t.Errorf("dropped: got %d, want 0", n)
	}
}

// TestBatch fills the wire before there is a reader: what waits is read in
// one go, and more than one go where it is more than fits.
func TestBatch(t *testing.T) {
	a, b := newPair(t)
	const frames = 1000
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer b.Close()
		w := b.NewWriter()
		for i := range frames {
			w.Add([]byte{byte(i), byte(i >> 8)})
			if err := w.Flush(); err != nil {
				t.Errorf("frame %d: %v", i, err)
				return
			}
		}
	})
	buf, i := make([]byte, 64), 0
	if err := a.NewReader(buf).Run(func(n int) {
		if n != 2 || int(buf[0])|int(buf[1])<<8 != i {
			t.Errorf("frame %d: got % x", i, buf[:n])
		}
		i++
	}); err != nil || i != frames {
		t.Errorf("got %d frames and error %v, want %d", i, err, frames)
	}
}

// TestEndWithUnreadFrames closes the other end while frames wait for it.
func TestEndWithUnreadFrames(t *testing.T) {
	a, b := newPair(t)
	send(t, a.NewWriter(), []byte("never read"))
	send(t, b.NewWriter(), []byte("read"))
	b.Close()
	frames := 0
	if err := a.NewReader(make([]byte, 64)).Run(func(int) { frames++ }); err != nil {
		t.Errorf("run: got %v, want nil", err)
	}
	if frames > 1 {
		t.Errorf("frames: got %d, want at most the 1 sent", frames)
	}
}

func TestSetBufferBetweenFrames(t *testing.T) {
	a, b := newPair(t)
	var r *tap.Reader
	buffers := [][]byte{make([]byte, 8), make([]byte, 8), make([]byte, 8)}
	i := 0
	r = a.NewReader(make([]byte, 2), buffers[0])
	if r.Len() != 2 {
		t.Errorf("buffers: got %d, want 2", r.Len())
	}
	w := b.NewWriter()
	for _, s := range []string{"..one", "..two", "..three"} {
		send(t, w, []byte(s))
	}
	b.Close()
	if err := r.Run(func(int) {
		if i++; i < len(buffers) {
			r.SetBuffer(1, buffers[i])
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"one", "two", "three"} {
		if got := string(bytes.TrimRight(buffers[i], "\x00")); got != want {
			t.Errorf("buffer %d: got %q, want %q", i, got, want)
		}
	}
}

func TestCloseEndsRun(t *testing.T) {
	a, b := newPair(t)
	got := make(chan int, 1)
	done := run(a.NewReader(make([]byte, 64)), func(n int) { got <- n })
	send(t, b.NewWriter(), []byte("frame")) // so that Run is known to run
	next(t, "frame", got)
	a.Close()
	if err := next(t, "end", done); err != nil {
		t.Errorf("run: got %v after Close, want nil", err)
	}
	if err := a.NewReader(make([]byte, 64)).Run(nil); err != nil {
		t.Errorf("run on a closed device: got %v, want nil", err)
	}
}

// TestWriteToClosed wants a frame that is not taken to be counted, and the
// next one to start anew.
// TestStop wants the frames that are waiting before the end: a guest's program
// may have ended right after it sent them.
func TestStop(t *testing.T) {
	a, b := newPair(t)
	w := b.NewWriter()
	for n := 1; n <= 100; n++ {
		send(t, w, count(n))
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	r := a.NewReader(buf)
	got, idle := 0, 0
	r.Idle = func() {
		if idle = got; got != 100 {
			t.Errorf("idle after %d frames, want 100", got)
		}
	}
	if err := next(t, "end of Run", run(r, func(n int) {
		if got++; n != got {
			t.Errorf("frame %d: got %d bytes", got, n)
		}
	})); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	if got != 100 || idle != 100 {
		t.Errorf("got %d frames, the last idle call after %d; want 100", got, idle)
	}
}

func TestWriteToClosed(t *testing.T) {
	a, b := newPair(t)
	b.Close()
	w := a.NewWriter()
	for range 50 {
		w.Add([]byte("piece"))
	}
	if err := w.Flush(); err == nil {
		t.Error("other end closed: got no error")
	}
	a.Close()
	w.Add([]byte("frame"))
	if err := w.Flush(); err == nil {
		t.Error("closed: got no error")
	}
	if n := a.Dropped(); n != 2 {
		t.Errorf("dropped: got %d, want 2", n)
	}
}

// TestCloseEndsWrite closes a device whose writer waits for a wire that nobody
// reads.
func TestCloseEndsWrite(t *testing.T) {
	a, _ := newPair(t)
	started := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w, frame := a.NewWriter(), make([]byte, 65536)
		for w.Add(frame); w.Flush() == nil; w.Add(frame) {
			started <- struct{}{}
		}
	}()
	for waits := false; !waits; {
		select {
		case <-started:
		case <-time.After(50 * time.Millisecond): // most likely it waits; if not, the test holds all the same
			waits = true
		}
	}
	a.Close()
	for {
		select {
		case <-started: // room for one more
		case <-done:
			return
		case <-time.After(settle.Patience):
			t.Fatal("writer did not end")
		}
	}
}

func TestAllocations(t *testing.T) {
	a, b := newPair(t)
	got := make(chan struct{})
	buf := make([]byte, 65536)
	done := run(a.NewReader(buf), func(int) { got <- struct{}{} })
	w, head, payload := b.NewWriter(), make([]byte, 66), make([]byte, 1448)
	if n := testing.AllocsPerRun(1000, func() {
		w.Add(head)
		w.Add(payload)
		_ = w.Flush()
		<-got
	}); n > 0 {
		t.Errorf("allocations for a frame sent and received: got %v, want 0", n)
	}
	b.Close()
	next(t, "end", done)
}

func BenchmarkWire(b *testing.B) {
	for name, size := range map[string]int{"1514": 1514, "65549": 65549} {
		b.Run(name, func(b *testing.B) {
			x, y := newPair(b)
			done := run(x.NewReader(make([]byte, 66), make([]byte, 65536)), func(int) {})
			w, head, payload := y.NewWriter(), make([]byte, 66), make([]byte, size-66)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				send(b, w, head, payload)
			}
			y.Close()
			<-done
		})
	}
}
