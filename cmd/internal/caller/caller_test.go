package caller

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
)

// inherited makes a pipe, with one end as a caller would leave it open for us:
// not closed on exec.
func inherited(t *testing.T, writes bool) (number int, other *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ours, other := r, w
	if writes {
		ours, other = w, r
	}
	defer ours.Close()
	t.Cleanup(func() { other.Close() })
	if number, err = syscall.Dup(int(ours.Fd())); err != nil {
		t.Fatal(err)
	}
	return number, other
}

func TestReady(t *testing.T) {
	number, r := inherited(t, true)
	d := Take(number)
	if !d.Open() {
		t.Fatal("passed, and not open")
	}
	d.Ready()
	if got, err := io.ReadAll(r); string(got) != "1" || err != nil {
		t.Errorf("got %q, %v, want 1", got, err)
	}
}

func TestReadyWithoutReader(t *testing.T) {
	number, r := inherited(t, true)
	r.Close()
	Take(number).Ready()
	Descriptor{}.Ready()
}

func TestHungUp(t *testing.T) {
	number, w := inherited(t, false)
	d := Take(number)
	var hungUp bool
	var wg sync.WaitGroup
	wg.Go(func() { hungUp = d.HungUp(t.Context()) })
	if _, err := w.WriteString("x"); err != nil { // does not matter
		t.Error(err)
	}
	w.Close()
	wg.Wait()
	if !hungUp {
		t.Error("got false, want true")
	}
	f, err := d.File()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestHungUpEndsWithContext(t *testing.T) {
	number, w := inherited(t, false)
	if _, err := w.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	d := Take(number)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if d.HungUp(ctx) {
		t.Error("got true, want false")
	}
	if (Descriptor{}).HungUp(context.Background()) {
		t.Error("none: got true, want false")
	}
	f, err := d.File()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// What the caller did not pass is not touched, although the number may be one
// of ours.
func TestNotPassed(t *testing.T) {
	r, w, err := os.Pipe() // closed on exec
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, number := range []int{int(w.Fd()), 1 << 20, 1 << 40, -1} {
		d := Take(number)
		if d.Open() {
			t.Errorf("%d: open", number)
		}
		d.Ready()
		if !d.HungUp(context.Background()) {
			t.Errorf("%d: not hung up", number)
		}
		if _, err := d.File(); err == nil {
			t.Errorf("%d: a file", number)
		}
	}
	if _, err := w.WriteString("x"); err != nil {
		t.Errorf("our own descriptor: %v", err)
	}
	w.Close()
	if got, err := io.ReadAll(r); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v, want x", got, err)
	}
}

// A knowing error has a remedy.
type knowing struct{ error }

func (knowing) Hint() string { return "try this" }

func TestHint(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("outer: %w", knowing{io.EOF}), "try this"},
		{io.EOF, ""},
		{nil, ""},
	} {
		if got, ok := Hint(tt.err); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%v: got %q, %v, want %q", tt.err, got, ok, tt.want)
		}
	}
}

func TestSeal(t *testing.T) {
	number, _ := inherited(t, false)
	defer syscall.Close(number)
	Seal()
	if Take(number).Open() {
		t.Error("still open for others")
	}
}

func TestSignals(t *testing.T) {
	ctx, caught := Signals(t.Context()) // under nohup(1) it leaves SIGHUP alone
	if got := caught(); got != 0 {
		t.Errorf("before: got %v, want none", got)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if got := caught(); got != syscall.SIGTERM {
		t.Errorf("got %v, want %v", got, syscall.SIGTERM)
	}
}
