package settle

import (
	"os"
	"sync/atomic"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestUntil(t *testing.T) {
	var done atomic.Bool
	go done.Store(true)
	Until(t, "done", done.Load)
}

func TestCount(t *testing.T) {
	before := count()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	go func() { <-end }()
	if got, want := count(), (things{before.goroutines + 1, before.descriptors + 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	close(end)
	f.Close()
	Until(t, "all gone", func() bool { return count() == before })
}
