package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"taproot/internal/engine"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// An Instance is what the API shows: *engine.Instance, but for its rules.
type Instance interface {
	Status() engine.Status
	Flows(ctx context.Context, which flow.Filter) ([]flow.Info, error)
	Kill(ctx context.Context, which flow.Filter) (int, error)
	Statistics(ctx context.Context) (engine.Statistics, error)
	Events() (events <-chan engine.Event, stop func())
	Restart(ctx context.Context, binary string) error
}

// A Table are the rules that the API shows and changes: *portfwd.Table.
type Table interface {
	Add(ctx context.Context, r portfwd.Rule) (id int, err error)
	AddAuto(ctx context.Context, c portfwd.AutoConfig) (id int, err error)
	Adopt(ctx context.Context, r portfwd.Rule, f *os.File) (id int, err error)
	Remove(id int) error
	RemoveKill(id int) error
	List() []portfwd.Entry
	Changes() (list []portfwd.Entry, changes <-chan portfwd.Change, stop func())
}

// A Config is what Listen needs.
type Config struct {
	// Name is the instance's, see CheckName.
	Name string

	// Path is where the socket is; "" means Path(Name).
	Path string

	// Version is ours.
	Version string

	// Source holds for published ports that do not say it.
	Source portfwd.SourceMode

	// Closed are rules that cannot be added: who started the instance has closed
	// what they would open.
	Closed []Closed

	// Log gets what goes wrong with clients, at debug level; nil means nothing
	// is logged.
	Log *slog.Logger
}

// A Server is the socket. It must be closed, and answers while it runs. nil stands
// for an instance without a socket: Start and Close do nothing.
type Server struct {
	cfg      Config
	own      bool // the directory is Directory
	unasked  bool // nobody wants to hear of it
	started  time.Time
	listener *net.UnixListener
	file     os.FileInfo // the socket in the file system
	http     http.Server
	mux      *http.ServeMux
	streams  chan struct{} // as many as there are
	slots    chan struct{} // one for each connection
	away     turnedAway

	instance Instance
	rules    Table

	running sync.WaitGroup // what Start began
	closing sync.Once
	closed  error // what Close returns
}

// Listen makes the socket, in place of one that is left from a dead instance.
// Clients may connect from then on; Run answers them. The error wraps ErrLive if
// somebody else has the name.
func Listen(cfg Config) (*Server, error) { return listen(cfg, false) }

func listen(cfg Config, unasked bool) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, own: cfg.Path == "", unasked: unasked, started: time.Now(),
		streams: make(chan struct{}, maxStreams), slots: make(chan struct{}, maxConns),
	}
	if s.own {
		s.cfg.Path = Path(cfg.Name)
	}
	var err error
	if s.cfg.Path, err = filepath.Abs(s.cfg.Path); err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	p, err := lock(filepath.Dir(s.cfg.Path), s.own)
	if err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	defer p.unlock()
	if unasked {
		p.bury() // callers kill such instances, and nobody runs `taproot ls`
	}
	if s.listener, err = p.bind(filepath.Base(s.cfg.Path)); err != nil {
		p.leave(s.own)
		return nil, err
	}
	if s.file, err = os.Lstat(s.cfg.Path); err != nil {
		s.listener.Close()
		return nil, err
	}
	return s, nil
}

// Path returns where the socket is.
func (s *Server) Path() string { return s.cfg.Path }

// Close stops listening, ends all connections, which ends Run, and removes the
// socket's file if it is still ours. It waits for what Start began. More calls wait
// for the first and return the same. If nobody has asked for the socket, what goes
// wrong is logged at debug level instead.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	err := s.shut()
	s.running.Wait()
	if err != nil && s.unasked {
		s.cfg.Log.Debug("API socket", "error", err)
		return nil
	}
	return err
}

func (s *Server) shut() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

func (s *Server) close() error {
	err := s.unlink()
	return errors.Join(err, s.listener.Close(), ignoreClosed(s.http.Close()))
}

// unlink removes the socket's file. That goes first: as long as the socket is
// open, no other file can be taken for it.
func (s *Server) unlink() error {
	p, err := lock(filepath.Dir(s.cfg.Path), false)
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody has cleaned up
	}
	if err != nil {
		return err
	}
	defer p.unlock()
	return p.remove(filepath.Base(s.cfg.Path), s.file, s.own)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Start is Run on a goroutine of the server's own, which Close waits for. What goes
// wrong is logged.
func (s *Server) Start(ctx context.Context, instance Instance, rules Table) {
	if s == nil {
		return
	}
	s.running.Go(func() {
		if err := s.Run(ctx, instance, rules); err != nil {
			level := slog.LevelWarn
			if s.unasked {
				level = slog.LevelDebug
			}
			s.cfg.Log.Log(ctx, level, "API socket", "error", err)
		}
	})
}

// Run answers clients until ctx ends or Close is called. It has goroutines for
// each connection, all of which have returned when Run returns.
func (s *Server) Run(ctx context.Context, instance Instance, rules Table) error {
	s.instance, s.rules = instance, rules
	s.http.Handler = handled(s.handler())
	s.http.ReadHeaderTimeout, s.http.ReadTimeout = headerTimeout, bodyTimeout
	s.http.WriteTimeout, s.http.IdleTimeout = writeTimeout, idleTimeout
	s.http.MaxHeaderBytes = maxHeader
	s.http.ErrorLog = log.New(logWriter{s.cfg.Log}, "", 0)
	s.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	var conns sync.WaitGroup
	defer conns.Wait()
	s.http.ConnState = func(c net.Conn, state http.ConnState) {
		if c, ok := c.(*conn); ok && c.progress.change(state) {
			s.away.requests.Add(1)
		}
		switch state {
		case http.StateNew:
			conns.Add(1) // by Serve itself
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = s.shut() })
	defer stop()
	us := uint32(os.Geteuid())
	err := s.http.Serve(&guard{
		UnixListener: s.listener,
		trusts:       func(uid uint32) bool { return uid == us || uid == 0 },
		strangers:    &s.away.strangers,
		slots:        s.slots,
	})
	_ = s.http.Close() // the connections that there are
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// connKey is where a request's context has its connection.
type connKey struct{}

// handler returns what answers requests.
func (s *Server) handler() http.Handler {
	s.mux = http.NewServeMux()
	for pattern, h := range s.routes() {
		s.mux.HandleFunc(pattern, h)
	}
	s.mux.HandleFunc("/", s.unknown)
	return s.mux
}

// routes are all requests that there are.
func (s *Server) routes() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /v1/info":          s.getInfo,
		"GET /v1/rules":         s.getRules,
		"POST /v1/rules":        s.postRules,
		"GET /v1/rules/{id}":    s.getRule,
		"DELETE /v1/rules/{id}": s.deleteRule,
		"GET /v1/flows":         s.getFlows,
		"DELETE /v1/flows":      s.deleteFlows,
		"GET /v1/stats":         s.getStats,
		"GET /v1/events":        s.getEvents,
		"POST /v1/restart":      s.postRestart,
		"GET /metrics":          s.getMetrics,
	}
}

// A logWriter is a log for package http.
type logWriter struct{ log *slog.Logger }

// Write implements io.Writer.
func (w logWriter) Write(b []byte) (int, error) {
	w.log.Debug("API client", "error", string(b))
	return len(b), nil
}

var _ io.Writer = logWriter{}
