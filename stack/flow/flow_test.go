package flow

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
)

func key(p Proto, port uint16) Key {
	return Key{p, netip.AddrPortFrom(netip.MustParseAddr("10.0.2.100"), port), netip.MustParseAddrPort("198.51.100.1:80")}
}

func TestTableLimits(t *testing.T) {
	table := New(Config{MaxTCP: 2, MaxUDP: 1, MaxICMP: 1})
	first, err := table.Open(key(TCP, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.Open(key(TCP, 1)); err != nil {
		t.Errorf("same key: got %v, want nil", err)
	}
	if _, err := table.Open(key(TCP, 3)); !errors.Is(err, ErrFull) {
		t.Errorf("third of two: got %v, want %v", err, ErrFull)
	}
	if _, err := table.Open(key(UDP, 3)); err != nil {
		t.Errorf("another protocol: got %v, want nil", err)
	}
	first.Close()
	first.Close()
	if _, err := table.Open(key(TCP, 3)); err != nil {
		t.Errorf("after close: got %v, want nil", err)
	}
	want := Stats{Live: 2, Peak: 2, Opened: 3, Refused: 1}
	if got := table.Stats(TCP); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
	n := 0
	for range table.All() {
		n++
	}
	if n != 3 {
		t.Errorf("all: got %d flows, want 3", n)
	}
	if _, err := table.Open(key(protos, 1)); err == nil {
		t.Error("unknown protocol: got no error")
	}
}

// TestWays wants flows by frames to have a limit of their own.
func TestWays(t *testing.T) {
	table := New(Config{MaxTCP: 4, MaxFrames: 1})
	open := func(port uint16, w Way, want error) *Flow {
		t.Helper()
		f, err := table.OpenBy(key(TCP, port), w)
		if !errors.Is(err, want) {
			t.Fatalf("open %d by %v: got %v, want %v", port, w, err, want)
		}
		return f
	}
	frames := open(1, ByFrames, nil)
	open(2, ByFrames, ErrFull)
	first, second := open(3, Shortcut, nil), open(4, Shortcut, nil)
	if err := first.SetWay(ByFrames); err != ErrFull || first.Way() != Shortcut {
		t.Errorf("one more by frames: got %v and way %v, want %v and %v", err, first.Way(), ErrFull, Shortcut)
	}
	frames.Close()
	if err := first.SetWay(ByFrames); err != nil || first.Way() != ByFrames {
		t.Errorf("by frames after close: got %v and way %v, want %v", err, first.Way(), ByFrames)
	}
	open(5, ByFrames, ErrFull)
	first.Close()
	if err := first.SetWay(Shortcut); err != nil { // closed flows count nowhere
		t.Error(err)
	}
	open(6, ByFrames, nil)
	open(7, Shortcut, nil)
	open(8, Shortcut, nil)
	open(9, Shortcut, ErrFull)
	second.Close()
	open(10, Shortcut, nil)
	if want, got := (Stats{Live: 4, Peak: 4, Opened: 7, Refused: 3}), table.Stats(TCP); got != want {
		t.Errorf("stats: got %+v, want %+v", got, want)
	}
}

// TestDefaults wants room for 50,000 idle connections by the shortcut, and not
// by frames.
func TestDefaults(t *testing.T) {
	table := New(Config{})
	count := func(w Way) (n int) {
		for ; ; n++ {
			if _, err := table.OpenBy(key(TCP, uint16(n)), w); err != nil {
				return n
			}
		}
	}
	if n := count(ByFrames); n != 16384 {
		t.Errorf("by frames: got %d, want 16384", n)
	}
	if n := count(Shortcut); n != 65536-16384 {
		t.Errorf("by the shortcut besides: got %d, want %d", n, 65536-16384)
	}
	for range 2 { // other protocols have no ways
		if _, err := table.Open(key(UDP, 1)); err != nil {
			t.Error(err)
		}
	}
}

func TestTableConcurrent(t *testing.T) {
	table := New(Config{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				f, err := table.Open(key(UDP, uint16(i*500+j)))
				if err != nil {
					t.Error(err)
					return
				}
				f.ToTarget.Add(1)
				f.Close()
			}
		})
	}
	wg.Wait()
	if got := table.Len(UDP); got != 0 {
		t.Errorf("live: got %d, want 0", got)
	}
}
