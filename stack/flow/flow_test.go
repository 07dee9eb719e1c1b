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
