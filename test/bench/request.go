package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

// requestTimeout is when a request without a response is lost.
const requestTimeout = 500 * time.Millisecond

// RequestArgs describes datagram requests, one in flight per flow.
type RequestArgs struct {
	Address  string // of the server that returns every datagram
	Flows    int    // sockets, each with a port of its own
	Duration time.Duration
}

// Requests is what the flows did.
type Requests struct {
	Done    int           // answered within Elapsed
	Lost    int           // not answered in time, or not sent
	Elapsed time.Duration // as asked for; what was under way at its end is not in Done
	Took    Latency       // of those done
}

// PerSecond is the rate of responses.
func (r Requests) PerSecond() float64 {
	return float64(r.Done) / r.Elapsed.Seconds()
}

// Request runs the flows for the duration.
func (a *Agent) Request(args RequestArgs, reply *Requests) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex // guards reply, times and errs
		times []time.Duration
		errs  []error
		end   = time.Now().Add(args.Duration)
	)
	for range args.Flows {
		group.Go(func() {
			took, lost, err := requestUntil(args.Address, end)
			mu.Lock()
			defer mu.Unlock()
			reply.Done += len(took)
			reply.Lost += lost
			times = append(times, took...)
			errs = append(errs, err)
		})
	}
	group.Wait()
	reply.Elapsed = args.Duration
	reply.Took = newLatency(times)
	return errors.Join(errs...)
}

// requestUntil is one flow. It returns the times of the answered requests and
// the number of the others.
func requestUntil(address string, end time.Time) (times []time.Duration, lost int, err error) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	buffer := make([]byte, 64)
	for id := uint64(1); ; id++ {
		start := time.Now()
		if start.After(end) {
			return times, lost, nil
		}
		switch err := requestOnce(conn, buffer, id, start.Add(requestTimeout)); {
		case err != nil:
			lost++
		case time.Now().Before(end):
			times = append(times, time.Since(start))
		}
	}
}

// requestOnce sends a request and waits for the response with its id.
func requestOnce(conn net.Conn, buffer []byte, id uint64, deadline time.Time) error {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	binary.BigEndian.PutUint64(buffer, id)
	if _, err := conn.Write(buffer); err != nil {
		pause(sendTick) // do not spin on an unreachable network
		return err
	}
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		if n >= 8 && binary.BigEndian.Uint64(buffer) == id {
			return nil
		}
	}
}

// serveEcho returns every datagram to its sender until conn is closed.
func serveEcho(conn *net.UDPConn) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier reply
		}
		_, _ = conn.WriteToUDPAddrPort(buffer[:n], from)
	}
}
