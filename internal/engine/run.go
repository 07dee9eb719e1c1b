package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"taproot/userns"
)

// Run runs a command in a network of its own and returns the command's exit
// status, 128+n if signal n ended it. An error means that the command did not
// run, or that we failed; one that has a remedy has a method Hint() string.
func Run(ctx context.Context, cfg Config) (status int, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &supervisor{cfg: cfg, log: cfg.Log.With("role", "supervisor")}
	return s.run(ctx)
}

// A supervisor is what the caller executed. It never reads a guest's frame.
type supervisor struct {
	cfg Config
	log *slog.Logger

	spec   *spec
	device *os.File

	mu sync.Mutex
	// engine is the one that runs, nil between two.
	// +checklocks:mu
	engine *process
	// host is what the engine was told last.
	// +checklocks:mu
	host hostState
}

// prepare makes all choices and says what the engine is told.
func (s *supervisor) prepare(ctx context.Context) (plan, error) {
	routes, err := hostRoutes()
	if err != nil {
		s.log.Warn("clashes not looked for", "error", err)
	}
	p, err := newPlan(s.cfg, routes)
	if err != nil {
		return plan{}, err
	}
	host, err := s.readHost(func(err error) { s.cfg.warn(err.Error(), resolvConfHint) })
	if err != nil {
		return plan{}, err
	}
	s.spec = p.spec(s.cfg)
	s.spec.Host = host
	s.remember(host)
	s.spec.Verbose = s.log.Enabled(ctx, slog.LevelDebug)
	return p, nil
}

func (s *supervisor) run(ctx context.Context) (int, error) {
	p, err := s.prepare(ctx)
	if err != nil {
		return 0, err
	}

	// Everything below ends with this context, except the thread that started
	// the processes, which must live longer than they.
	ctx, cancel := context.WithCancel(ctx)
	last, release := context.WithCancel(context.Background())
	var wg, thread sync.WaitGroup
	defer thread.Wait()
	defer release()
	defer wg.Wait()
	defer s.stopEngine()
	defer cancel()
	starter := newThreads(last, &thread)

	engine, err := startProcess(starter)
	if err != nil {
		return 0, err
	}
	s.replace(engine)
	guest, err := s.makeGuest(ctx, p)
	if err != nil {
		return 0, err
	}
	defer guest.Close()
	defer s.device.Close()
	if err := engine.begin(s.spec, s.device); err != nil {
		return 0, err
	}
	wg.Go(func() { s.keep(ctx, starter) })
	wg.Go(func() { s.followHost(ctx) })
	if err := guest.Go(); err != nil {
		return 0, err
	}
	return guest.Wait()
}

// makeGuest makes the guest's namespaces and takes the device out of them.
func (s *supervisor) makeGuest(ctx context.Context, p plan) (*userns.Guest, error) {
	setup := p.setup()
	var err error
	if setup.Device, err = json.Marshal(deviceSpec{Offload: s.cfg.Offload}); err != nil {
		return nil, err
	}
	if !s.cfg.DNS.Off {
		setup.ResolvConf = guestResolvConf(p, s.spec.Host)
	}
	setup.Hosts = guestHosts(p)
	guestConfig := s.cfg.Guest
	guestConfig.Log = s.log
	guest, err := userns.Start(ctx, guestConfig, setup)
	if err != nil {
		return nil, err
	}
	device, report := guest.Device()
	var d deviceSpec
	if err := json.Unmarshal(report, &d); err != nil {
		guest.Close()
		return nil, fmt.Errorf("report of the stage: %w", err)
	}
	s.device, s.spec.Features = device, d.Features
	s.log.Debug("device open", "name", p.name, "offloads", d.Features.Header, "udp_offload", d.Features.USO, "why", d.Features.Why)
	return guest, nil
}
