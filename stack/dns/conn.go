package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// idleTimeout is how long a guest's connection may wait for its next
	// query, how long that may take to arrive, and how long a reply may take
	// to be taken. RFC 7766 section 6.2.3: a few seconds; longer than a lookup
	// may last, so that a client that waits for its answer is never idle.
	idleTimeout = 15 * time.Second

	// maxPipelined bounds the queries of one connection that are under way at
	// once; then it is not read from. Enough for a resolver that asks for A
	// and AAAA of a page's names together, a small part of DefaultMessages.
	maxPipelined = 32
)

// ServeConn answers the queries that come over conn, a TCP connection from
// the guest, until the guest closes it or is idle, or ctx ends. It closes conn.
// It has a goroutine for each query under way, at most 32; all have returned
// when ServeConn returns. How many connections are served at once is the
// caller's to limit.
//
// The error is nil if the guest closed the connection or was idle.
func (f *Forwarder) ServeConn(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	s := &session{f: f, conn: conn, cancel: cancel, pending: make(chan struct{}, maxPipelined)}
	release := interrupt(ctx, conn)
	err := s.read(ctx)
	if err != nil {
		cancel(err)
	}
	s.answering.Wait()
	err = context.Cause(ctx) // whatever ended it first
	cancel(nil)
	release()
	return err
}

// A session is one connection of the guest.
type session struct {
	f         *Forwarder
	conn      net.Conn
	cancel    context.CancelCauseFunc // ends the session: a reply could not be written
	pending   chan struct{}           // one element for each query under way
	answering sync.WaitGroup          // counts the same

	// writing is held while a message is written: conn's deadline keeps that
	// short. It guards nothing but the order of bytes.
	writing sync.Mutex
}

// read reads queries and starts a goroutine for each until it cannot go on.
func (s *session) read(ctx context.Context) error {
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			return fmt.Errorf("read query: %w", err)
		}
		query, err := readMessage(s.conn)
		switch {
		case err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("read query: %w", err)
		}
		if err := s.start(ctx, query); err != nil {
			return err
		}
	}
}

// start answers query, in a goroutine unless that can be done at once. It
// waits for its turn: a guest that asks too fast is not read from.
func (s *session) start(ctx context.Context, query []byte) error {
	reply, err := s.f.answerHere(query)
	if err != nil {
		return err
	}
	if reply != nil {
		return s.write(reply)
	}
	for _, limit := range []chan struct{}{s.pending, s.f.slots} {
		select {
		case limit <- struct{}{}:
		case <-ctx.Done():
			if limit == s.f.slots {
				<-s.pending
			}
			return ctx.Err()
		}
	}
	s.answering.Go(func() {
		defer func() { <-s.f.slots; <-s.pending }()
		if err := s.forward(ctx, query); err != nil {
			s.cancel(err)
		}
	})
	return nil
}

// forward asks the servers and writes the reply.
func (s *session) forward(ctx context.Context, query []byte) error {
	if isTransfer(query) {
		return s.transfer(ctx, query)
	}
	reply, err := s.f.lookup(ctx, query, s.f.overTCP)
	if err != nil {
		return err
	}
	return s.write(reply)
}

// transfer is forward for a query that many messages answer. Where they end
// can only be told by reading them, so that they are passed on until the
// server closes, is silent for idleTimeout, or the guest has had enough.
func (s *session) transfer(ctx context.Context, query []byte) error {
	var server net.Conn
	reply, err := s.f.lookup(ctx, query, func(ctx context.Context, addr netip.AddrPort, query []byte) ([]byte, error) {
		if server != nil {
			server.Close() // it refused
		}
		conn, reply, err := s.f.openTCP(ctx, addr, query)
		server = conn
		return reply, err
	})
	if server != nil {
		defer server.Close()
		defer interrupt(ctx, server)()
	}
	if err != nil {
		return err
	}
	if err := s.write(reply); err != nil || server == nil || isRefusal(reply) {
		return err
	}
	for {
		if err := server.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			return nil // closed: ctx has ended
		}
		more, err := readMessage(server)
		if err != nil || len(more) < headerSize {
			return nil // the guest knows by the last record whether this was all
		}
		if err := s.write(withID(more, id(query))); err != nil {
			return err
		}
	}
}

// write writes one reply to the guest.
func (s *session) write(reply []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(idleTimeout)); err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	if err := writeMessage(s.conn, reply); err != nil {
		return fmt.Errorf("write reply: %w", err)
	}
	return nil
}
