package relay

import (
	"io"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkMoverPingPong sends a byte there and back.
func BenchmarkMoverPingPong(b *testing.B) {
	m, _ := newMover(b, 1)
	pingPong(b, newLine(b, m))
}

// BenchmarkMoverBeside is BenchmarkMoverPingPong beside another connection that
// moves as much as it can.
func BenchmarkMoverBeside(b *testing.B) {
	m, _ := newMover(b, 1)
	l, bulk := newLine(b, m), newLine(b, m)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer bulk.left.Close()
	wg.Go(func() { io.Copy(io.Discard, bulk.right) })
	wg.Go(func() {
		for piece := make([]byte, 128<<10); ; {
			if _, err := bulk.left.Write(piece); err != nil {
				return
			}
		}
	})
	pingPong(b, l)
}

// pingPong reports half of the round trips and all but a hundredth.
func pingPong(b *testing.B, l *line) {
	piece := make([]byte, 1)
	var took []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		for _, c := range []struct{ from, to io.ReadWriter }{{l.left, l.right}, {l.right, l.left}} {
			if _, err := c.from.Write(piece); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c.to, piece); err != nil {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "us-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "us-p99")
}

// BenchmarkMoverBulk moves 1 MiB at a time.
func BenchmarkMoverBulk(b *testing.B) {
	m, _ := newMover(b, 1)
	l := newLine(b, m)
	piece := make([]byte, 1<<20)
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(io.Discard, l.right) })
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		if _, err := l.left.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	l.left.Close()
	wg.Wait()
}

// BenchmarkMoverConnect joins two connections, moves a byte and closes them.
func BenchmarkMoverConnect(b *testing.B) {
	m, _ := newMover(b, 1)
	piece := make([]byte, 1)
	for b.Loop() {
		b.StopTimer()
		l := prepareLine(b)
		b.StartTimer()
		l.join(b, m)
		l.left.Write(piece)
		l.left.Close()
		io.ReadFull(l.right, piece)
		l.right.Close()
		<-l.ended
	}
}
