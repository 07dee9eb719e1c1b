package userns

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// joins is how often TestJoinStress joins in each way.
const joins = 1000

// disturb does what could hurt a fork that does not run Go, until the returned
// function is called: it collects garbage, allocates, and has signals sent to all
// threads.
func disturb() (stop func()) {
	var done atomic.Bool
	var wg sync.WaitGroup
	for _, f := range []func(){
		runtime.GC,
		func() { runtime.KeepAlive(make([]byte, 1<<rand.IntN(16))) },
		func() {
			syscall.Kill(os.Getpid(), syscall.SIGURG)
			tasks, _ := os.ReadDir("/proc/self/task")
			for _, task := range tasks {
				if id, err := strconv.Atoi(task.Name()); err == nil {
					unix.Tgkill(os.Getpid(), id, syscall.SIGURG)
				}
			}
		},
	} {
		wg.Go(func() {
			for !done.Load() {
				f()
				runtime.Gosched()
			}
		})
	}
	return func() {
		done.Store(true)
		wg.Wait()
	}
}

// TestJoinStress joins many times in both ways, from several goroutines,
// while the process is disturbed. None may fail, nothing may be left.
func TestJoinStress(t *testing.T) {
	if !asUser(t) {
		return
	}
	n := openTarget(t, Target{PID: newTarget(t, "answer", rootTarget()).pid})
	attach := func() error {
		f, _, err := n.Attach(context.Background(), nullSetup())
		closeFile(f)
		return err
	}
	sockets := func() error {
		files, err := n.Sockets(context.Background(), []Socket{{Family: unix.AF_INET, Type: unix.SOCK_STREAM}})
		closeFiles(files)
		return err
	}
	for _, tt := range []struct {
		name string
		join func() error
	}{{"attach", attach}, {"sockets", sockets}} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.join(); err != nil { // whatever starts once has started
				t.Fatal(err)
			}
			descriptors, goroutines := descriptorsOpen(t), runtime.NumGoroutine()
			start := time.Now()
			stop := disturb()
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range joins / 4 {
						if err := tt.join(); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			stop()
			t.Logf("%v each", time.Since(start)/joins)
			if got := descriptorsOpen(t); got != descriptors {
				t.Errorf("descriptors: got %d, want %d", got, descriptors)
			}
			eventually(t, "no goroutine left", func() bool { return runtime.NumGoroutine() <= goroutines })
			if got := children(t); len(got) != 1 {
				t.Errorf("children: got %v, want the target", got)
			}
		})
	}
}

// TestTargetDies kills the target at any moment. It may be too late; but every
// call returns, with a reason, and nothing is left.
func TestTargetDies(t *testing.T) {
	if !asUser(t) {
		return
	}
	descriptors := -1
	for range 50 {
		p := newTarget(t, "answer", rootTarget())
		delay := time.Duration(rand.IntN(12_000)) * time.Microsecond
		var wg sync.WaitGroup
		wg.Go(func() {
			busy(delay)
			p.end()
		})
		dies(t, p.pid)
		wg.Wait()
		if descriptors < 0 {
			descriptors = descriptorsOpen(t)
		}
	}
	if got := descriptorsOpen(t); got != descriptors {
		t.Errorf("descriptors: got %d, want %d", got, descriptors)
	}
	if got := children(t); len(got) != 0 {
		t.Errorf("children: got %v, want none", got)
	}
}

// dies uses a target that dies meanwhile.
func dies(t *testing.T, pid int) {
	t.Helper()
	n, err := OpenTarget(Target{PID: pid})
	if err != nil {
		if !errors.Is(err, syscall.ESRCH) {
			t.Errorf("open: got %v, want %v", err, syscall.ESRCH)
		}
		return
	}
	defer n.Close()
	f, _, err := n.Attach(context.Background(), nullSetup())
	if err != nil {
		t.Errorf("attach: got %v, want nil: the namespace is held open", err)
	}
	closeFile(f)
	if err := n.Wait(context.Background(), FollowTarget); err != nil {
		t.Errorf("wait: got %v, want nil", err)
	}
}

// busy lets time pass exactly.
func busy(d time.Duration) {
	for start := time.Now(); time.Since(start) < d; {
		runtime.Gosched()
	}
}

// BenchmarkAttach measures reaching a network, without making anything in it.
func BenchmarkAttach(b *testing.B) {
	n := benchTarget(b)
	for b.Loop() {
		f, _, err := n.Attach(context.Background(), nullSetup())
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkSockets measures a join for one socket.
func BenchmarkSockets(b *testing.B) {
	n := benchTarget(b)
	for b.Loop() {
		files, err := n.Sockets(context.Background(), []Socket{{Family: unix.AF_INET, Type: unix.SOCK_STREAM}})
		if err != nil {
			b.Fatal(err)
		}
		closeFiles(files)
	}
}

// benchTarget is a target of whoever runs the benchmark.
func benchTarget(b *testing.B) *Namespace {
	return openTarget(b, Target{PID: newTarget(b, "answer", rootTarget()).pid})
}
