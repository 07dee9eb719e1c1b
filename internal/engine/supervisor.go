package engine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/userns"
)

// A supervisor is what the caller executed. It never reads a guest's frame.
type supervisor struct {
	cfg   Config
	log   *slog.Logger
	world world

	plan   plan.Plan
	spec   *spec
	device *os.File
	rules  *portfwd.Table

	// refuser is nil if published ports are always open.
	refuser *portfwd.Refuser

	// gone gets why the device is gone, once.
	gone chan error

	// needed are the sockets inside the guest that the engine waits for.
	needed chan socketRequest

	// connects are the Unix sockets that the engine wants to be connected to.
	connects chan connectRequest

	// missed tells that the engine lacks sockets of rules.
	missed chan struct{}

	diversion diversion

	// children is held for reading while a child makes sockets inside the guest.
	children sync.RWMutex

	closings closings

	queries queries
	events  broadcast

	beat time.Duration // 0 means watchBeat

	restarting      atomic.Bool         // a request is under way
	restartRequests chan restartRequest // taken by serveRestarts
	kept            chan struct{}       // closed when the engine is kept no longer

	// telling is held while the engine is told of the host or the guest's network, so
	// that what it heard last is true.
	telling sync.Mutex

	mu sync.Mutex
	// state is how the engine does, since when.
	// +checklocks:mu
	state EngineState
	// +checklocks:mu
	since time.Time
	// why is what the last engine died of, or the network.
	// +checklocks:mu
	why string
	// restarts counts engines besides the first.
	// +checklocks:mu
	restarts int
	// binary is what engines are made of.
	// +checklocks:mu
	binary *build
	// trial is what there was before binary.
	// +checklocks:mu
	trial trial
	// rolledBack is which program failed last, and why.
	// +checklocks:mu
	rolledBack string
	// next is the engine that waits to take over.
	// +checklocks:mu
	next *replacement
	// removed are the words about rules that were taken away since next is, for it.
	// +checklocks:mu
	removed []message
	// exchanging tells whether such words are kept.
	// +checklocks:mu
	exchanging bool
	// engine is the one that runs, nil between two.
	// +checklocks:mu
	engine *process
	// host is what the engine was told last.
	// +checklocks:mu
	host hostState
	// network is what the engine was told last of the guest's.
	// +checklocks:mu
	network plan.Plan
	// sandbox is what the engine has given up.
	// +checklocks:mu
	sandbox []SandboxStep
	// forgone is what the supervisor has.
	// +checklocks:mu
	forgone SandboxStep
}

// newSupervisor returns the supervisor of a guest, which does nothing yet.
func newSupervisor(cfg Config, w world) *supervisor {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.readShortcut(os.Getenv(ShortcutVariable))
	cfg.readLimits(os.Getenv(LimitVariable))
	if cfg.Stderr == nil {
		cfg.Stderr = os.Stderr
	}
	s := &supervisor{
		cfg: cfg, log: cfg.Log.With("role", "supervisor"), world: w,
		gone:            make(chan error, 1),
		needed:          make(chan socketRequest, socketKinds),
		connects:        make(chan connectRequest, maxConnects),
		missed:          make(chan struct{}, 1),
		restartRequests: make(chan restartRequest),
		kept:            make(chan struct{}),
	}
	s.diversion.doubted = make(chan struct{}, 1)
	return s
}

// supervise makes the guest's network work until the guest is gone.
func supervise(ctx context.Context, cfg Config, w world) error {
	s := newSupervisor(cfg, w)
	defer w.close()

	// Everything below ends with this context, except the thread that started
	// the processes, which must live longer than they.
	ctx, cancel := context.WithCancel(ctx)
	last, release := context.WithCancel(context.Background())
	var wg, thread sync.WaitGroup
	defer thread.Wait()
	defer release()
	defer s.undivert()
	defer s.closeBinaries()
	defer wg.Wait()
	defer s.stopEngine()
	defer cancel()

	// The engine's process starts while we look around.
	launcher := &launcher{threads: newThreads(last, &thread), mode: cfg.Sandbox.Mode}
	engine, err := launcher.start(s.launch())
	if err != nil {
		return err
	}
	s.engineIs(engine)
	if err := s.begin(ctx, engine); err != nil {
		return err
	}
	defer s.closeDevice()
	defer s.rules.Close()
	defer cancel() // so that nobody who publishes waits for an engine that does not listen
	s.serve(ctx, launcher, &wg)
	if err := s.publish(ctx, &wg); err != nil {
		return err
	}
	if err := s.forgo(); err != nil {
		return err
	}
	if cfg.Ready != nil {
		if err := cfg.Ready(s.instance()); err != nil {
			return err
		}
	}
	return w.live(ctx, s)
}

// serve has wg keep the engine, and do what it asks for, until ctx ends.
func (s *supervisor) serve(ctx context.Context, launcher *launcher, wg *sync.WaitGroup) {
	wg.Go(func() { s.keep(ctx, launcher) })
	wg.Go(func() { s.serveRestarts(ctx, launcher) })
	if s.refuser != nil {
		wg.Go(func() { s.refuse(ctx) })
	}
	wg.Go(func() { s.serveSockets(ctx) })
	wg.Go(func() { s.serveConnects(ctx) })
	wg.Go(func() { s.republish(ctx) })
	if s.diversion.rules != nil {
		wg.Go(func() { s.keepDiversion(ctx) })
	}
}

// publish publishes the ports of the configuration, and has wg follow those of the guest
// and what changes on the host until ctx ends.
func (s *supervisor) publish(ctx context.Context, wg *sync.WaitGroup) error {
	if err := s.addRules(ctx); err != nil {
		return err
	}
	if err := s.addAuto(ctx); err != nil {
		return err
	}
	wg.Go(func() { s.rules.Follow(ctx) })
	if s.cfg.NoFollow {
		wg.Go(func() { s.followWaiting(ctx) })
	} else {
		wg.Go(func() { s.followHost(ctx) })
	}
	return nil
}

// begin makes the guest's network and has the engine serve it.
func (s *supervisor) begin(ctx context.Context, engine *process) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	device, features, err := s.world.open(ctx, s)
	if err != nil {
		return err
	}
	s.device, s.spec.Features = device, features
	s.spec.NoDevice = device == nil
	if err := s.wantsDivert(); err == nil {
		s.spec.Divert = true
	} else if err := s.noShortcut(err); err != nil {
		s.closeDevice()
		return err
	}
	s.log.Debug("device open", "name", s.plan.Interface, "offloads", features.Header, "udp_offload", features.USO, "why", features.Why)
	warning, err := s.beginEngine(engine, func() error { return s.divert(ctx) })
	if err != nil {
		s.closeDevice()
		return err
	}
	if warning != "" {
		s.cfg.warn(warning, "")
	}
	s.rules = s.newTable()
	if s.cfg.Refuse {
		s.refuser = portfwd.NewRefuser(s.rules, s.diagInGuest)
	}
	return nil
}

// beginEngine gives an engine its work and waits until it is ready. divert is
// called meanwhile, if the shortcut is wanted at all.
func (s *supervisor) beginEngine(engine *process, divert func() error) (warning string, err error) {
	if warning, err = s.bringUp(engine, s.spec, divert); err == nil {
		s.engineState(EngineRunning)
	}
	return warning, err
}

// bringUp is beginEngine without a word about it.
func (s *supervisor) bringUp(engine *process, work *spec, divert func() error) (warning string, err error) {
	if err := engine.begin(work, s.descriptors()...); err != nil {
		return "", err
	}
	if work.Divert {
		if err := divert(); err != nil {
			return "", err
		}
		if err := s.diversion.tellFirst(engine); err != nil {
			return "", engine.ended(fmt.Errorf("start the engine: %w", err))
		}
	}
	if err := engine.ready(); err != nil {
		return "", err
	}
	if warning, err = s.cfg.Sandbox.check(engine.steps); err != nil {
		return "", err
	}
	s.sandboxIs(engine.steps)
	return warning, nil
}

// prepare makes all choices and says what the engine is told.
func (s *supervisor) prepare(ctx context.Context) error {
	if s.cfg.Plan != nil {
		var err error
		if s.plan, err = s.cfg.Plan.Plan(s.cfg.warn); err != nil {
			return err
		}
	}
	s.rememberNetwork(&s.plan)
	host, err := s.readHost(func(err error) { s.cfg.warn(err.Error(), resolvConfHint) })
	if err != nil {
		return err
	}
	s.spec = newSpec(&s.plan, &s.cfg)
	s.spec.Host = host
	s.remember(host)
	s.spec.Verbose = s.log.Enabled(ctx, slog.LevelDebug)
	return nil
}

// setup returns what is made in the guest's namespace, with that device.
func (s *supervisor) setup(d *tapDevice) userns.Setup {
	setup := s.plan.Setup()
	setup.Device, setup.Down = d, s.cfg.Down
	return setup
}

// descriptors are what the engine gets with its spec.
func (s *supervisor) descriptors() []*os.File {
	var files []*os.File
	for _, f := range []*os.File{s.device, s.cfg.Capture} {
		if f != nil {
			files = append(files, f)
		}
	}
	return files
}

func (s *supervisor) closeDevice() {
	if s.device != nil {
		s.device.Close()
	}
}

func (cfg *Config) warn(message, hint string) {
	if cfg.Warn != nil {
		cfg.Warn(message, hint)
	}
}
