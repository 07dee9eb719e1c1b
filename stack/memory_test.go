package stack

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"taproot/tap"
	"taproot/test/settle"
)

// TestMemory has connections of which one holds much that the guest does not read:
// when memory is short, that one is reset, and the others are not.
func TestMemory(t *testing.T) {
	const budget = 1 << 20
	var used atomic.Uint64
	accepted := make(chan *Conn, 3)
	w := newWire(t, tap.Features{}, 1500, func(gateway, _ *Stack) {
		gateway.memory.Budget = budget
		gateway.memory.measure = used.Load
		gateway.memory.release = func() {}
		gateway.HandleTCP(func(r *Request) {
			c, err := r.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		})
	})
	open := func() (*Conn, net.Conn) {
		t.Helper()
		guest, err := w.dial(t.Context(), netip.AddrPortFrom(server4, 80))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { guest.Close() })
		return <-accepted, guest
	}
	hog, _ := open()
	idle, reader := open()
	k := w.gateway.memory
	now := time.Now()
	if more := k.keep(now); more || k.Tight.Load() != 0 {
		t.Errorf("without need: looks again %v, tight %d times", more, k.Tight.Load())
	}
	used.Store(budget)
	if more := k.keep(now); !more || k.Tight.Load() != 1 || k.Ended.Load() != 0 {
		t.Errorf("half of it allocated: looks again %v, tight %d times, ended %d", more, k.Tight.Load(), k.Ended.Load())
	}
	settle.Until(t, "nothing more fits", func() bool {
		_, err := hog.WriteFrom(&slice{make([]byte, 4096)})
		return errors.Is(err, syscall.EAGAIN)
	})
	used.Store(2 * budget)
	k.keep(now.Add(time.Second))
	if got := k.Ended.Load(); got != 1 || !errors.Is(hog.Err(), syscall.ECONNABORTED) && hog.Err() == nil || idle.Err() != nil {
		t.Errorf("ended: got %d, errors %v and %v, want the one that holds much", got, hog.Err(), idle.Err())
	}
	used.Store(0)
	if more := k.keep(now.Add(2 * time.Second)); more || k.tight.Load() {
		t.Errorf("afterwards: looks again %v, tight %v", more, k.tight.Load())
	}
	if _, err := idle.WriteFrom(&slice{[]byte("hello")}); err != nil {
		t.Fatal(err)
	}
	if n, err := reader.Read(make([]byte, 5)); n != 5 || err != nil {
		t.Errorf("the other one: got %d bytes and error %v", n, err)
	}
	hog.Close()
	idle.Close()
	reader.Close()
	settle.Until(t, "nothing is left", func() bool { return len(k.all()) == 0 })
}

// A slice is a Payload of bytes.
type slice struct{ b []byte }

// Len returns the number of bytes that are left.
func (s *slice) Len() int { return len(s.b) }

// Read copies to b.
func (s *slice) Read(b []byte) (int, error) {
	n := copy(b, s.b)
	s.b = s.b[n:]
	return n, nil
}

func TestMeasure(t *testing.T) {
	if measure() == 0 {
		t.Error("got nothing allocated")
	}
}
