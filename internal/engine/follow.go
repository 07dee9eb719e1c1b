package engine

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/vishvananda/netlink"

	"taproot/internal/plan"
)

// quietTime is how long the host's state must be quiet before it is read again:
// programs write resolv.conf in several steps, and addresses come in groups.
const quietTime = 50 * time.Millisecond

// quietLongest is how long it is waited for that quiet: a host whose routes
// never rest has new addresses all the same, which the guest must not reach.
const quietLongest = time.Second

// followHost tells the engine of changes of the host's addresses and resolvers
// until ctx ends.
func (s *supervisor) followHost(ctx context.Context) {
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	stopAddresses := watchNetlink(s.log, "addresses", netlink.AddrSubscribe, note)
	defer stopAddresses()
	if s.plan.Follows {
		stopRoutes := watchNetlink(s.log, "routes", netlink.RouteSubscribe, note)
		defer stopRoutes()
	}
	files := s.watchFiles()
	if files != nil {
		defer files.Close()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-events(files):
		case <-errorsOf(files):
		}
		if !s.quiet(ctx, changed, files) {
			return
		}
		s.refresh(files)
		s.rules.Retry(ctx)
		if s.plan.Follows {
			s.replan(ctx)
		}
	}
}

// followWaiting tries rules again that wait for an address of the host, until
// ctx ends: all that is followed with Config.NoFollow.
func (s *supervisor) followWaiting(ctx context.Context) {
	changed := make(chan struct{}, 1)
	stop := watchNetlink(s.log, "addresses", netlink.AddrSubscribe, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer stop()
	for s.rules.Retry(ctx); ; s.rules.Retry(ctx) {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// quiet waits until nothing has happened for quietTime, or for quietLongest. It
// returns false when ctx has ended.
func (s *supervisor) quiet(ctx context.Context, changed <-chan struct{}, files *fsnotify.Watcher) bool {
	enough := time.NewTimer(quietLongest)
	defer enough.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		case <-events(files):
		case <-errorsOf(files):
		case <-enough.C:
			return true
		case <-time.After(quietTime):
			return true
		}
	}
}

// refresh reads the host's state and passes it on if it is new.
func (s *supervisor) refresh(files *fsnotify.Watcher) {
	s.addWatches(files)
	h, err := s.readHost(func(err error) { s.log.Warn("resolvers not read", "error", err) })
	if err != nil {
		s.log.Warn("host's state not read", "error", err)
		return
	}
	s.mu.Lock()
	same := reflect.DeepEqual(h, s.host)
	s.mu.Unlock()
	if !same {
		s.log.Debug("host changed", "addresses", h.Addresses, "servers", h.Servers)
		s.events.tell(EventHostChanged, "")
		s.tell(h)
	}
}

// watchNetlink calls note when something of the host's network changes, until
// the function that it returns is called.
func watchNetlink[U any](log *slog.Logger, what string, subscribe func(chan<- U, <-chan struct{}) error, note func()) (stop func()) {
	updates, done := make(chan U), make(chan struct{})
	if err := subscribe(updates, done); err != nil {
		log.Warn("host's "+what+" not followed", "error", err)
		return func() {}
	}
	finished := make(chan struct{})
	go func() { // ends when the library closes updates, after done
		defer close(finished)
		for range updates {
			note()
		}
	}()
	return func() {
		close(done)
		<-finished
	}
}

// replan gives the guest what the host's network is now. A host that has lost
// all its addresses leaves the guest with the old ones.
func (s *supervisor) replan(ctx context.Context) {
	p, err := s.cfg.Plan.Plan(nil)
	if err != nil {
		s.log.Warn("guest's network not planned again", "error", err)
		return
	}
	old := s.plan
	p.Interface = old.Interface
	if !p.V4.On() && !p.V6.On() || reflect.DeepEqual(p, old) {
		return
	}
	ns, err := s.world.namespace()
	if err == nil {
		err = ns.Change(ctx, old.Setup(), p.Setup())
	}
	if err != nil {
		s.log.Warn("guest's network not changed", "error", err)
		return
	}
	s.plan = p
	s.log.Debug("guest's network changed", "addresses", p.Setup().Addresses)
	defer s.events.tell(EventNetworkChanged, "")
	s.telling.Lock()
	defer s.telling.Unlock()
	if err := s.rememberNetwork(&p).wire.send(message{Plan: &p}); err != nil {
		s.log.Debug("guest's network not sent", "error", err) // the next engine gets it
	}
}

// watchFiles watches the directories that resolv.conf and what it links to
// are in. A file of its own would be lost when it is replaced.
func (s *supervisor) watchFiles() *fsnotify.Watcher {
	if s.cfg.DNS.Off || len(s.cfg.DNS.Servers) > 0 {
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn(resolvConfPath+" not followed", "error", err)
		return nil
	}
	s.addWatches(w)
	return w
}

// addWatches watches the directories on the way to resolv.conf as it is now.
// What is watched already stays watched once.
func (s *supervisor) addWatches(w *fsnotify.Watcher) {
	if w == nil {
		return
	}
	for _, path := range symlinkChain(resolvConfPath) {
		if err := w.Add(filepath.Dir(path)); err != nil {
			s.log.Debug("directory not watched", "path", filepath.Dir(path), "error", err)
		}
	}
}

// events returns a watcher's events; those of none never come.
func events(w *fsnotify.Watcher) <-chan fsnotify.Event {
	if w == nil {
		return nil
	}
	return w.Events
}

// errorsOf returns a watcher's errors, an overflow for instance, after which
// everything is read again.
func errorsOf(w *fsnotify.Watcher) <-chan error {
	if w == nil {
		return nil
	}
	return w.Errors
}

// readHost returns what the engine must know of the host. A resolv.conf that
// cannot be read is told to unread and taken for an empty one.
func (s *supervisor) readHost(unread func(error)) (hostState, error) {
	addresses, err := plan.HostAddresses()
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
	h.Servers = numberZones(h.Servers, func(server netip.AddrPort, err error) {
		s.log.Warn("resolver left out", "server", server, "error", err)
	})
	return h, nil
}

// tell sends the engine what has changed on the host.
func (s *supervisor) tell(h hostState) {
	s.telling.Lock()
	defer s.telling.Unlock()
	engine := s.remember(h)
	if err := engine.wire.send(message{Host: &h}); err != nil {
		s.log.Debug("host's state not sent", "error", err) // the next engine gets it
	}
}
