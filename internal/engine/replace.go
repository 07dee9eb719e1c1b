package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// wireProtocol says how supervisor and engine understand each other. It is raised
// with every change of message after which an engine of the one build does not do
// what a supervisor of the other wants; fields that may be left out are none.
const wireProtocol = 1

// A hello is what the two of a restart say to each other first, since they may be
// of two builds.
type hello struct {
	Protocol int
	Version  string `json:",omitempty"` // the engine's, for people
	Handover int    `json:",omitempty"` // the engine's handoverFormat; 0 knows none
}

// maxVersion is the longest version in bytes.
const maxVersion = 128

// helloGrace is how long a program may take to say that it is an engine.
const helloGrace = 5 * time.Second

// ErrBusy says that the engine is being replaced already.
var ErrBusy = errors.New("the engine is being replaced")

// A restartRequest asks for another engine.
type restartRequest struct {
	binary string     // path, "" for the same as now
	result chan error // with room for it
}

// Restart replaces the engine by another one, of the program at the absolute path
// binary, or of the same as now if that is "". The guest keeps its device, published
// ports stay open, connections of the shortcut go on where both programs can do that,
// and other flows are reset. The one that runs goes when the other is
// ready, and stays if that does not come up, which is the error. One that ends before it
// has given a sign of life is an error as well; if it or the next ones of another program
// die soon, engines are made of the program before again: the first of them only if it
// has inherited no connections. The error wraps ErrNoEngine if none runs, and ErrBusy if
// one is being replaced.
func (i *Instance) Restart(ctx context.Context, binary string) error {
	s := i.supervisor
	if !s.restarting.CompareAndSwap(false, true) {
		return ErrBusy
	}
	r := restartRequest{binary, make(chan error, 1)}
	select {
	case s.restartRequests <- r:
	case <-s.kept:
		s.restarting.Store(false)
		return ErrNoEngine
	case <-ctx.Done():
		s.restarting.Store(false)
		return ctx.Err()
	}
	select {
	case err := <-r.result:
		return err
	case <-s.kept:
		return ErrNoEngine
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A replacement is an engine that waits for the one before to go.
type replacement struct {
	process *process
	binary  *build
	taken   chan struct{} // closed when it has taken over, or failed to
	passed  chan struct{} // tells of connections that it was given; of one
	err     error         // why it failed to; valid once taken is closed

	// Of what the one before hands over, for who reads what that says:
	flows   int    // that it was given
	last    uint64 // the highest id of those
	refused bool   // it gets no more
	servers servers
	learned bool // servers were looked for
}

func newReplacement(p *process, b *build) *replacement {
	return &replacement{process: p, binary: b, taken: make(chan struct{}), passed: make(chan struct{}, 1)}
}

// serveRestarts replaces the engine whenever it is asked to, until ctx ends.
func (s *supervisor) serveRestarts(ctx context.Context, launcher *launcher) {
	for {
		select {
		case r := <-s.restartRequests:
			err := s.replace(ctx, launcher, r.binary)
			s.restarting.Store(false) // also if nobody waits for it any more
			r.result <- err
		case <-ctx.Done():
			return
		}
	}
}

// replace brings another engine up beside the one that runs, and lets it take over.
func (s *supervisor) replace(ctx context.Context, launcher *launcher, path string) error {
	if s.ready() == nil {
		return ErrNoEngine
	}
	b, err := s.chooseBinary(path)
	if err != nil {
		return err
	}
	next, err := s.prepareEngine(ctx, launcher, b)
	if err != nil {
		b.closeUnless(s.binaryNow())
		return fmt.Errorf("the engine stays as it is: %w", err)
	}
	return s.exchange(ctx, newReplacement(next, b))
}

// exchange ends the engine that runs and waits until r has taken over.
func (s *supervisor) exchange(ctx context.Context, r *replacement) error {
	s.exchanges(true)
	defer s.exchanges(false)
	s.mu.Lock()
	s.next = r
	engine, isOther := s.engine, r.binary != s.binary
	s.mu.Unlock()
	s.retire(ctx, engine, r)
	select {
	case <-r.taken:
		if r.err != nil {
			return fmt.Errorf("the other engine did not take over: %w", r.process.ended(r.err))
		}
		return s.prove(ctx, r, isOther)
	case <-s.kept:
	case <-ctx.Done():
	}
	if s.takeNext() != nil {
		r.process.stop()
		r.binary.closeUnless(s.binaryNow())
	}
	return ErrNoEngine
}

// prepareEngine starts an engine and makes it ready to move packets, which it does
// not do yet: frames have one reader.
func (s *supervisor) prepareEngine(ctx context.Context, launcher *launcher, b *build) (*process, error) {
	l := s.launch()
	l.binary = b
	p, err := launcher.start(l)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, p.wire.hangUp)
	defer stop()
	if err = p.greet(); err == nil {
		spec := s.specNow()
		spec.Waits = true
		_, err = s.bringUp(p, spec, func() error { return nil })
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	b.learn(p.handover)
	return p, nil
}

// greet finds out whether the program is an engine that understands us.
func (p *process) greet() error {
	if err := p.wire.send(message{Hello: &hello{Protocol: wireProtocol}}); err != nil {
		return fmt.Errorf("it is no engine: %w", p.ended(err))
	}
	_ = p.wire.file.SetReadDeadline(time.Now().Add(helloGrace)) // it is a socket
	m, err := p.next()
	_ = p.wire.file.SetReadDeadline(time.Time{})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it is no engine: %w", err)
	case err != nil:
		return fmt.Errorf("it is no engine: %w", p.ended(err))
	case m.Hello == nil || len(m.Hello.Version) > maxVersion:
		return errors.New("it is no engine: unexpected message")
	case m.Hello.Protocol != wireProtocol:
		return &incompatible{m.Hello.Version, m.Hello.Protocol}
	}
	p.version, p.handover = m.Hello.Version, m.Hello.Handover
	return nil
}

// An incompatible is an engine that does not understand this supervisor.
type incompatible struct {
	version  string
	protocol int
}

// Error implements error.
func (i *incompatible) Error() string {
	return fmt.Sprintf("version %q speaks protocol %d, this instance %d", i.version, i.protocol, wireProtocol)
}

// Hint says what helps.
func (i *incompatible) Hint() string { return "end the instance and start it with the other version" }

// awaited tells whether an engine waits to take over.
func (s *supervisor) awaited() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next != nil
}

// takeNext takes the engine that waits to take over, or returns nil.
func (s *supervisor) takeNext() *replacement {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.next
	s.next = nil
	return r
}

// replaced has the engine that waits take over from one that is gone. It returns
// false if none waits.
func (s *supervisor) replaced(ctx context.Context) bool {
	r := s.takeNext()
	if r == nil {
		return false
	}
	s.countRestart()
	s.events.tell(EventEngineReplaced, r.binary.String())
	s.log.Debug("engine replaced", "program", r.binary.String(), "flows", r.flows)
	s.setBinary(r.binary, r.flows > 0)
	orphans := s.orphans(ctx)
	if r.err = s.handOver(r.process); r.err != nil {
		s.log.Debug("engine did not take over", "error", r.err)
		r.process.stop() // it is dead, and the next to be kept
	} else {
		s.engineState(EngineRunning)
		s.endOrphans(orphans)
	}
	close(r.taken)
	if err := s.rules.Republish(); err != nil {
		s.log.Warn("ports not published again", "error", err)
	}
	return true
}

// handOver makes p the engine, tells it what has changed since it was started, and
// lets it move packets.
func (s *supervisor) handOver(p *process) error {
	s.telling.Lock()
	defer s.telling.Unlock()
	d := &s.diversion
	d.mu.Lock()
	defer d.mu.Unlock()
	s.engineIs(p)
	spec := s.specNow()
	news := []message{{Host: &spec.Host}, {Plan: &spec.Plan}, {Divert: &divertState{On: d.on}}, {Go: true}}
	if spec.NoDevice {
		news = []message{news[0], {Go: true}}
	}
	news = slices.Insert(news, len(news)-1, s.takeRemoved()...)
	for _, m := range news {
		if err := p.wire.send(m); err != nil {
			return err
		}
	}
	return nil
}

// specNow returns a copy of what an engine is told that is started now.
func (s *supervisor) specNow() *spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := *s.spec
	now.Host, now.Plan = s.host, s.network
	return &now
}

// chooseBinary returns the program at a path, or the one that engines are now.
func (s *supervisor) chooseBinary(path string) (*build, error) {
	if path == "" {
		return s.binaryNow(), nil
	}
	return openBinary(path)
}

// binaryNow returns what engines are, nil for our own program.
func (s *supervisor) binaryNow() *build {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.binary
}
