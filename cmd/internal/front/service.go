package front

import (
	"context"
	"fmt"
	"sync"
	"time"

	"taproot/cmd/internal/caller"
	"taproot/internal/engine"
)

// A service tells the service manager how an instance does. Its manager may be nil.
type service struct {
	manager *caller.Manager
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// newService finds the service manager, if there is one.
func (p *program) newService() *service {
	m, err := caller.NewManager()
	if err != nil {
		p.warn(err.Error(), "")
	}
	return &service{manager: m, stop: func() {}}
}

// ready tells the manager that all works, and then how it goes on, until close.
// What is stopping when ctx ends is told at once.
func (s *service) ready(ctx context.Context, in *engine.Instance) {
	if s.manager == nil {
		return
	}
	events, leave := in.Events()
	st := in.Status()
	s.manager.Tell(caller.NotifyReady, caller.NotifyStatus(statusText(&st)))
	ctx, s.stop = context.WithCancel(ctx)
	s.wg.Go(func() {
		defer func() { leave() }()
		tick, stop := ticks(s.manager.Watchdog())
		defer stop()
		for {
			select {
			case <-ctx.Done():
				s.manager.Tell(caller.NotifyStopping)
				return
			case event, ok := <-events:
				if !ok { // there were too many
					leave()
					events, leave = in.Events()
				}
				st := in.Status()
				s.manager.Tell(caller.NotifyStatus(eventText(event, &st)))
			case <-tick:
				if in.Alive() {
					s.manager.Tell(caller.NotifyAlive)
				}
			}
		}
	})
}

// ticks returns a channel that ticks every d, never for 0, and what ends that.
func ticks(d time.Duration) (<-chan time.Time, func()) {
	if d <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(d)
	return t.C, t.Stop
}

// eventText says on a line how an instance does after an event. That the engine has
// died is said even when there is another one already: of that tells the next event.
func eventText(event engine.Event, st *engine.Status) string {
	if event.Kind == engine.EventEngineDied && st.Engine != engine.EngineGone {
		st.Engine, st.Why = engine.EngineStarting, event.Why
	}
	return statusText(st)
}

// statusText says on a line how an instance does.
func statusText(st *engine.Status) string {
	switch st.Engine {
	case engine.EngineGone:
		return "no network any more" + because(st.Why)
	case engine.EngineStarting:
		return "the engine is being started" + because(st.Why)
	}
	text := "the network of " + namespaceOf(st) + " works"
	if st.Restarts > 0 {
		text += fmt.Sprintf(", engine started again %d times", st.Restarts)
	}
	return text
}

func namespaceOf(st *engine.Status) string {
	switch {
	case st.Process != 0:
		return fmt.Sprintf("process %d", st.Process)
	case st.Path != "":
		return st.Path
	}
	return st.Interface
}

// close says that it is over, if it was not said.
func (s *service) close() {
	s.stop()
	s.wg.Wait()
	s.manager.Close()
}
