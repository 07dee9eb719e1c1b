package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

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

func (s *supervisor) run(ctx context.Context) (int, error) {
	routes, err := hostRoutes()
	if err != nil {
		s.log.Warn("clashes not looked for", "error", err)
	}
	p, err := newPlan(s.cfg, routes)
	if err != nil {
		return 0, err
	}
	host, err := s.readHost(func(err error) { s.cfg.warn(err.Error(), resolvConfHint) })
	if err != nil {
		return 0, err
	}
	s.spec = p.spec(s.cfg)
	s.spec.Host, s.host = host, host
	s.spec.Verbose = s.log.Enabled(ctx, slog.LevelDebug)

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
	s.engine = engine
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
		setup.ResolvConf = guestResolvConf(p, s.host)
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

// stopEngine ends the engine if there is one.
func (s *supervisor) stopEngine() {
	if engine := s.current(); engine != nil {
		engine.stop()
	}
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

// restart starts the engine for the n-th time in a row.
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
	s.mu.Lock()
	s.engine = engine
	s.spec.Host = s.host
	s.mu.Unlock()
	return engine.begin(s.spec, s.device)
}

// readHost returns what the engine must know of the host. A resolv.conf that
// cannot be read is told to unread and taken for an empty one.
func (s *supervisor) readHost(unread func(error)) (hostState, error) {
	addresses, err := hostAddresses()
	if err != nil {
		return hostState{}, err // the policy is not complete without them
	}
	h := hostState{Addresses: addresses, Servers: s.cfg.DNS.Servers}
	if s.cfg.DNS.Off {
		return h, nil
	}
	conf, err := readResolvConf()
	if err != nil && len(h.Servers) == 0 { // all but its search list is replaced otherwise
		unread(err)
	}
	h.Search = conf.Search
	if len(h.Servers) == 0 {
		h.Servers = conf.Servers
	}
	return h, nil
}

// tell sends the engine what has changed on the host.
func (s *supervisor) tell(h hostState) {
	s.mu.Lock()
	s.host = h
	engine := s.engine
	s.mu.Unlock()
	if err := engine.wire.send(message{Host: &h}, nil); err != nil && !errors.Is(err, os.ErrClosed) {
		s.log.Debug("host's state not sent", "error", err) // the next engine gets it
	}
}
