package caller

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// Signals returns a context that ends with the first signal that would end the
// process, and the function that tells which it was, 0 if none came. A second
// signal ends the process at once. The one goroutine ends with ctx, or with the
// process.
func Signals(ctx context.Context) (context.Context, func() syscall.Signal) {
	ctx, cancel := context.WithCancel(ctx)
	var fatal []os.Signal
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if !signal.Ignored(s) { // nohup(1) means it
			fatal = append(fatal, s)
		}
	}
	c := make(chan os.Signal, 1)
	if fatal != nil { // none would mean all
		signal.Notify(c, fatal...)
	}
	var caught atomic.Int32
	go func() {
		defer cancel()
		select {
		case s := <-c:
			caught.Store(int32(s.(syscall.Signal)))
			signal.Stop(c)
		case <-ctx.Done():
		}
	}()
	return ctx, func() syscall.Signal { return syscall.Signal(caught.Load()) }
}

// DieBy ends the process by a signal, so that the caller sees what ended it.
// The status is for the case that it does not, because the signal is blocked.
func DieBy(s syscall.Signal) (status int) {
	signal.Reset(s)
	_ = syscall.Kill(os.Getpid(), s)
	time.Sleep(time.Second) // another thread may take the signal
	return 128 + int(s)
}
