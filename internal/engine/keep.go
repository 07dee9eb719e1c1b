package engine

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stopEngine ends the engine if there is one.
func (s *supervisor) stopEngine() {
	if engine := s.current(); engine != nil {
		engine.stop()
	}
}

// replace sets the engine that runs, and what it is to be told of the host.
func (s *supervisor) replace(engine *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine = engine
	s.spec.Host = s.host
}

// remember notes what the engine was told, and returns the engine.
func (s *supervisor) remember(h hostState) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = h
	return s.engine
}

// current returns the engine that runs or ran last.
func (s *supervisor) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.engine
}

// An engine that dies is started again after restartFirst, then twice as long
// each time up to restartLongest; after restartMost times within restartWindow
// it is given up.
const (
	restartFirst   = 10 * time.Millisecond
	restartLongest = 5 * time.Second
	restartMost    = 10
	restartWindow  = time.Minute
)

// keep starts the engine again whenever it dies, until ctx ends, the device is
// gone, or it dies too often.
func (s *supervisor) keep(ctx context.Context, starter *threads) {
	var deaths []time.Time
	for {
		engine := s.current()
		stop := context.AfterFunc(ctx, engine.wire.close)
		gone := engine.watch()
		stop()
		if ctx.Err() != nil {
			return
		}
		if gone != "" {
			s.deviceGone(ctx, gone)
			return
		}
		now := time.Now()
		deaths = append(deaths, now)
		for now.Sub(deaths[0]) > restartWindow {
			deaths = deaths[1:]
		}
		s.log.Warn("engine died", "error", engine.err, "times", len(deaths))
		if err := s.restart(ctx, starter, len(deaths)); err != nil {
			s.cfg.warn(fmt.Sprintf("the guest has no network any more: %v", err), "")
			return
		}
	}
}

// goneGrace is how long a command may take to end after its network: the two
// go together when the guest's last process ends.
const goneGrace = time.Second

// deviceGone says that the guest deleted its device, unless the guest ends.
func (s *supervisor) deviceGone(ctx context.Context, why string) {
	select {
	case <-ctx.Done():
	case <-time.After(goneGrace):
		s.cfg.warn("the guest has no network any more: "+why, "")
	}
}

// restart starts the engine for the n-th time in a row. One that dies before
// it is ready is no error: it is left for keep to count.
func (s *supervisor) restart(ctx context.Context, starter *threads, n int) error {
	if n > restartMost {
		return fmt.Errorf("the engine died %d times in %v", n, restartWindow)
	}
	select {
	case <-time.After(min(restartFirst<<(n-1), restartLongest)):
	case <-ctx.Done():
		return nil
	}
	engine, err := startProcess(starter)
	if err != nil {
		return err
	}
	s.replace(engine)
	err = engine.begin(s.spec, s.device)
	var refused refusal
	if errors.As(err, &refused) {
		return err
	}
	if err != nil {
		engine.stop()
	}
	return nil
}
