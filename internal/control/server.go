package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Limits of a connection. Clients are programs that write a request at once:
// one that takes longer is broken, or means harm.
const (
	maxRequest     = 4096             // bytes; one that has as many is too large
	defaultTimeout = 10 * time.Second // for the whole request
	lingerTimeout  = time.Second      // for the client to take the reply and close
	maxConns       = 512              // more wait to be accepted
	acceptPause    = 50 * time.Millisecond
)

// A Config is what Listen needs.
type Config struct {
	// Guest is where an add_hostfwd without a guest_addr leads to.
	Guest netip.Addr

	// Timeout is how long a request may take to arrive; 0 means 10 seconds.
	Timeout time.Duration

	// Log gets what clients did, at debug level; nil means nothing is logged.
	Log *slog.Logger
}

// A Server is the socket. It must be closed, and answers while it runs.
type Server struct {
	cfg       Config
	listener  *net.UnixListener
	file      os.FileInfo // the socket in the file system
	forwarder Forwarder

	closing sync.Once
	closed  error // what Close returns
}

// Listen makes the socket at path, which has less than 108 bytes, instead of
// whatever file is there, unless somebody answers at it. Clients may connect
// from then on; Run answers them.
func Listen(path string, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	l, err := bind(path)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, listener: l}
	if s.file, err = os.Lstat(l.Addr().String()); err != nil {
		l.Close()
		return nil, err
	}
	return s, nil
}

// Close stops listening, which ends Run, and removes the socket's file if it
// is still ours. More calls wait for the first and return the same.
func (s *Server) Close() error {
	s.closing.Do(func() { s.closed = s.close() })
	return s.closed
}

// close does the work of Close. The file goes first: as long as the socket is
// open, no other file can be taken for it.
func (s *Server) close() error {
	var err error
	path := s.listener.Addr().String()
	if now, statErr := os.Lstat(path); statErr == nil && os.SameFile(now, s.file) {
		err = os.Remove(path)
	}
	return errors.Join(err, s.listener.Close())
}

// Run answers clients until ctx ends or Close is called. Each connection has a
// goroutine; all have returned when Run returns.
func (s *Server) Run(ctx context.Context, forwarder Forwarder) {
	s.forwarder = forwarder
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	slots := make(chan struct{}, maxConns)
	for {
		slots <- struct{}{}
		c, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			wg.Go(func() {
				defer func() { <-slots }()
				s.serve(ctx, c)
			})
			continue
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return
		}
		<-slots
		s.cfg.Log.Warn("API socket: accept", "error", err) // out of descriptors, likely
		select {
		case <-time.After(acceptPause):
		case <-ctx.Done():
			return
		}
	}
}

// serve answers one client.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.SetDeadline(time.Now().Add(s.cfg.Timeout))
	r, err := receive(c)
	c.SetDeadline(time.Now().Add(lingerTimeout))
	if _, err := c.Write(s.answer(ctx, r, err)); err != nil {
		s.cfg.Log.Debug("API client", "error", err)
		return
	}
	// A client would get ECONNRESET in place of the end if something that it
	// sent were left unread.
	if c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, c)
	}
}

// receive reads until a request is complete. Beyond those of parse, any error
// means that the rest did not come.
func receive(c io.Reader) (request, error) {
	b := make([]byte, maxRequest)
	for n := 0; ; {
		m, readErr := c.Read(b[n:])
		n += m
		if n == len(b) {
			return request{}, errTooLarge
		}
		r, err := parse(b[:n])
		if !errors.Is(err, errIncomplete) {
			return r, err
		}
		if readErr != nil {
			return request{}, readErr
		}
	}
}
