package main

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// chunkSize is the size of the buffers that bulk traffic is written from
	// and read into: what iperf3 uses, and the largest read that pays.
	chunkSize = 128 << 10

	// dialTimeout bounds a connect of a measurement. Longer than the first
	// retransmission of a SYN (1 s, RFC 6298 §2), so a lost one shows as a slow
	// connect and not as a failure.
	dialTimeout = 3 * time.Second
)

// A counter counts bytes. It is safe for concurrent use.
type counter struct{ n atomic.Int64 }

// Received is the state of an agent's counter at one moment.
type Received struct {
	Bytes int64
	At    time.Duration // since the agent started
}

// Received replies with what came in over TCP so far.
func (a *Agent) Received(_ Nothing, reply *Received) error {
	*reply = Received{Bytes: a.received.n.Load(), At: time.Since(a.started)}
	return nil
}

// OpenArgs describes the flows of bulk traffic between a guest and the outside.
type OpenArgs struct {
	Address string // of the sink, or of the source if Down
	Flows   int    // connections at the same time
	Down    bool   // the guest receives
}

// Open opens the flows that Stream uses.
func (a *Agent) Open(args OpenArgs, _ *Nothing) error {
	conns, err := dialMany(args.Address, args.Flows, args.Flows, args.Flows)
	if err != nil {
		closeAll(conns)
		return err
	}
	move := send
	if args.Down {
		move = a.receive
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	closeAll(a.flows) // of a measurement that was given up
	a.flows, a.move = conns, move
	return nil
}

// Stream sends or receives on all flows until the duration is over. It resets
// them, so that nothing buffered on the way disturbs the next measurement. The
// receiving agent's counter has the result.
func (a *Agent) Stream(duration time.Duration, _ *Nothing) error {
	a.mu.Lock()
	conns, move := a.flows, a.move
	a.mu.Unlock()
	defer closeAll(conns)
	var group sync.WaitGroup
	deadline := time.Now().Add(duration)
	errs := make([]error, len(conns))
	for i, conn := range conns {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
		group.Go(func() { errs[i] = move(conn) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// Halt ends a Stream before its time. It may have ended already.
func (a *Agent) Halt(_ Nothing, _ *Nothing) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, conn := range a.flows {
		_ = conn.SetDeadline(time.Now())
	}
	return nil
}

// receive reads from conn and counts until its deadline. An early end is an
// error.
func (a *Agent) receive(conn net.Conn) error {
	buffer := make([]byte, chunkSize)
	for {
		n, err := conn.Read(buffer)
		a.received.n.Add(int64(n))
		if err != nil {
			return ignoreTimeout(err)
		}
	}
}

// send writes to conn until its deadline. An early end is an error.
func send(conn net.Conn) error {
	buffer := make([]byte, chunkSize)
	for {
		if _, err := conn.Write(buffer); err != nil {
			return ignoreTimeout(err)
		}
	}
}

// ignoreTimeout returns nil for a deadline that passed, err for all else.
func ignoreTimeout(err error) error {
	if timedOut(err) {
		return nil
	}
	return err
}

// timedOut reports whether err is a deadline that passed.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// dialMany opens n connections to address, at most width at a time, and gives up
// after as many failures as it has patience. The connections that were made are
// returned even with an error, and are the caller's to close. A close resets.
func dialMany(address string, n, width, patience int) ([]net.Conn, error) {
	var (
		group sync.WaitGroup
		mu    sync.Mutex // guards conns and errs
		conns []net.Conn
		errs  []error
		slots = make(chan struct{}, width)
	)
	failures := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(errs)
	}
	for range n {
		slots <- struct{}{}
		if failures() >= patience {
			break
		}
		group.Go(func() {
			defer func() { <-slots }()
			conn, err := net.DialTimeout("tcp", address, dialTimeout)
			if err == nil {
				err = conn.(*net.TCPConn).SetLinger(0)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			conns = append(conns, conn)
		})
	}
	group.Wait()
	if len(errs) > 0 {
		return conns, fmt.Errorf("%d of %d connects: %w", n-len(conns), n, errs[0])
	}
	return conns, nil
}

// closeAll closes connections that nobody needs an answer from.
func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}

// serveSink reads and counts all that comes in on one connection.
func (a *Agent) serveSink(conn net.Conn) {
	_ = a.receive(conn) // the client resets when it is done
}

// serveSource writes to one connection until the client resets it.
func serveSource(conn net.Conn) {
	_ = send(conn)
}

// serveHold keeps one connection until the client closes it and returns what
// comes in, byte by byte: tens of thousands of them need no buffers.
func serveHold(conn net.Conn) {
	one := make([]byte, 1)
	for {
		if _, err := conn.Read(one); err != nil {
			return
		}
		if _, err := conn.Write(one); err != nil {
			return
		}
	}
}
