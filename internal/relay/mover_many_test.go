package relay

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// A crowd is many connections of a Mover. Their peers are blocking descriptors
// with a deadline.
type crowd struct {
	peers    [][2]int
	joined   [][2]int
	outbound atomic.Int64
	inbound  atomic.Int64
	ended    atomic.Int64
}

// newCrowd joins n connections, or as many as the limit of descriptors allows.
func newCrowd(t testing.TB, m *Mover, n int) *crowd {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n = min(n, int(limit.Cur)/4-100) // each has four
	c := &crowd{}
	for range n {
		var peer, joined [2]int
		for i := range peer {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			joined[i], peer[i] = fds[0], fds[1]
			_ = unix.SetNonblock(joined[i], true)
			patience := unix.NsecToTimeval(int64(settle.Patience))
			_ = unix.SetsockoptTimeval(peer[i], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
		}
		c.peers, c.joined = append(c.peers, peer), append(c.joined, joined)
	}
	for _, j := range c.joined {
		if err := m.Join(j[0], j[1], Counters{Outbound: &c.outbound, Inbound: &c.inbound}, func(bool) { c.ended.Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// pingPong sends a byte each way.
func (c *crowd) pingPong(t testing.TB, i int) {
	p := c.peers[i]
	b := []byte{byte(i)}
	for _, way := range [][2]int{{p[0], p[1]}, {p[1], p[0]}} {
		if _, err := unix.Write(way[0], b); err != nil {
			t.Fatalf("connection %d: write: %v", i, err)
		}
		if n, err := read(way[1], b); n != 1 || b[0] != byte(i) {
			t.Fatalf("connection %d: read: got %d bytes, %v, %v; want its number", i, n, b, err)
		}
	}
}

// read is read(2), which signals may interrupt.
func read(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

func (c *crowd) close() {
	for _, p := range c.peers {
		unix.Close(p[0])
		unix.Close(p[1])
	}
}

// TestMoverMany holds 10,000 connections, or as many as the limit of descriptors
// allows, and uses them in turn.
func TestMoverMany(t *testing.T) {
	m, _ := newMover(t, 2)
	c := newCrowd(t, m, 10_000)
	for i := range c.peers {
		c.pingPong(t, i)
	}
	c.close()
	settle.Until(t, "the end of all", func() bool { return c.ended.Load() == int64(len(c.peers)) })
}

// BenchmarkMoverIdle reports what an idle connection costs us, in bytes.
func BenchmarkMoverIdle(b *testing.B) {
	memory := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	for b.Loop() {
		m, stop := newMover(b, 1)
		before := memory()
		c := newCrowd(b, m, 4_000)
		for i := range c.peers {
			c.pingPong(b, i)
		}
		b.ReportMetric(float64(memory()-before)/float64(len(c.peers))-32, "B/conn") // 32 are the test's own
		c.close()
		stop()
	}
}
