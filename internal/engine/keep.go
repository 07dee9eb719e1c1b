package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"taproot/internal/plan"
)

// stopEngine ends the engine if there is one.
func (s *supervisor) stopEngine() {
	if engine := s.current(); engine != nil {
		engine.stop()
	}
}

// engineIs sets the engine that runs.
func (s *supervisor) engineIs(engine *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine = engine
	if s.spec != nil { // else not the first one's, which is told later
		s.spec.Host, s.spec.Plan = s.host, s.network
	}
}

// remember notes what the engine was told, and returns the engine.
func (s *supervisor) remember(h hostState) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = h
	return s.engine
}

// rememberNetwork notes what the engine was told of the guest's network, and
// returns the engine.
func (s *supervisor) rememberNetwork(p *plan.Plan) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network = *p
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
func (s *supervisor) keep(ctx context.Context, launcher *launcher) {
	defer close(s.kept)
	var deaths []time.Time
	var unborn error // why the last one was not started, if it was not
	for {
		engine := s.current()
		if s.awaited() {
			engine.stop()
		}
		stop := context.AfterFunc(ctx, engine.wire.hangUp)
		gone := engine.watch(func(m message, fds passed) { s.hear(engine, m, fds) })
		stop()
		if ctx.Err() != nil {
			return
		}
		s.engineState(EngineStarting)
		if gone != "" {
			s.deviceGone(ctx, gone)
			return
		}
		if s.replaced(ctx) {
			continue
		}
		why := cmp.Or(unborn, engine.err, errEnded)
		s.died(why)
		s.rollBack(why)
		now := time.Now()
		deaths = append(deaths, now)
		for now.Sub(deaths[0]) > restartWindow {
			deaths = deaths[1:]
		}
		s.log.Warn("engine died", "error", why, "times", len(deaths))
		var err error
		if unborn, err = s.restart(ctx, launcher, len(deaths)); err != nil {
			s.networkGone(err)
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
		s.networkGone(errors.New(why))
	}
}

// networkGone says that the guest's network is gone for good: a command is told
// by a warning and goes on, an attachment ends. Who sees the state has been told why,
// and who hears of the event sees the state.
func (s *supervisor) networkGone(why error) {
	s.lost(why)
	s.cfg.warn(fmt.Sprintf("the guest has no network any more: %v", why), "")
	s.engineState(EngineGone)
	s.events.tell(EventNetworkGone, why.Error())
	s.gone <- fmt.Errorf("network of the guest: %w", why) // there is room, this is the only time
}

// died tells of an engine's death.
func (s *supervisor) died(why error) {
	s.lost(why)
	s.events.tell(EventEngineDied, fmt.Sprint(why))
}

// lost notes why there is no engine, or was none for a while.
func (s *supervisor) lost(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = fmt.Sprint(why)
}

// countRestart counts an engine besides the first.
func (s *supervisor) countRestart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarts++
}

// launch says how engines are started now.
func (s *supervisor) launch() launch {
	return launch{stderr: s.cfg.Stderr, beat: s.beat, binary: s.binaryNow()}
}

// restart starts the engine for the n-th time in a row. One that dies before
// it is ready is no error, and one that cannot be started now, which is why it is
// unborn, perhaps can a little later: both are left for keep to count.
func (s *supervisor) restart(ctx context.Context, launcher *launcher, n int) (unborn, err error) {
	if n > restartMost {
		return nil, fmt.Errorf("the engine died %d times in %v", n, restartWindow)
	}
	select {
	case <-time.After(min(restartFirst<<(n-1), restartLongest)):
	case <-ctx.Done():
		return nil, nil
	}
	s.countRestart()
	orphans := s.orphans(ctx) // while there are no others
	engine, err := launcher.start(s.launch())
	if err != nil {
		return err, nil
	}
	s.engineIs(engine)
	_, err = s.beginEngine(engine, func() error { return nil }) // the first one was warned of
	var refused refusal
	if errors.As(err, &refused) || errors.As(err, new(*sandboxError)) {
		engine.stop()
		return nil, err
	}
	if err != nil {
		engine.stop()
		return nil, nil
	}
	s.endOrphans(orphans)
	return nil, s.rules.Republish()
}
