package socket

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTurn wants a goroutine that waits for a descriptor to run although
// another one always can, on the only processor.
func TestTurn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	turn, err := NewTurn()
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Errorf("read: %v", err)
		}
	}()
	for range 10 {
		turn.Yield() // the reader waits
	}
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _, err = unix.Write(int(fd), []byte{0}) })
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	for turns := 0; !ran && turns < 1000; turns++ { // one is enough unless the runtime's own goroutines run
		turn.Yield()
		select {
		case <-done:
			ran = true
		default:
		}
	}
	if !ran {
		t.Error("the reader did not have a turn")
	}
	turn.Close()
	turn.Yield() // returns
}
