package userns

import "runtime"

// A thread is one operating system thread that runs functions until it is
// stopped. Processes with a parent death signal are started on it, because the
// signal is sent when the thread that started them ends.
type thread struct {
	work chan func()
	done chan struct{}
}

// newThread starts the thread's goroutine.
func newThread() *thread {
	t := &thread{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(t.done)
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		for f := range t.work {
			f()
		}
	}()
	return t
}

// do runs f on the thread and returns when it has returned.
func (t *thread) do(f func()) {
	done := make(chan struct{})
	t.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// stop ends the thread.
func (t *thread) stop() {
	close(t.work)
	<-t.done
}
