package slirp

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// catchSignals returns a context that ends with the first signal that would end
// the process, and the function that tells which it was, 0 if none came. A
// second signal ends the process at once. The goroutine ends with ctx or with
// the process.
func catchSignals(ctx context.Context) (context.Context, func() syscall.Signal) {
	ctx, cancel := context.WithCancel(ctx)
	c := make(chan os.Signal, 1)
	var fatal []os.Signal
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if !signal.Ignored(s) { // nohup(1) means it
			fatal = append(fatal, s)
		}
	}
	signal.Notify(c, fatal...)
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

// dieBy ends the process by a signal, so that the caller sees what did it. The
// status is for the case that it does not.
func dieBy(s syscall.Signal) int {
	signal.Reset(s)
	_ = syscall.Kill(os.Getpid(), s)
	time.Sleep(time.Second) // the signal may meet another thread
	return 128 + int(s)
}
