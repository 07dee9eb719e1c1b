package main

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"
)

// pingTimeout bounds one round trip; a helper that needs longer is broken.
const pingTimeout = 2 * time.Second

// PingPongArgs describes round trips of one byte over one TCP connection.
type PingPongArgs struct {
	Address string
	Idle    time.Duration // between the connect and the first round trip
	Rounds  int           // measured round trips
	Limit   time.Duration // stop after this time with what there is
}

// A tenth of the round trips, or of the time, goes before them as warm-up.
const warmShare = 10

// Latency is the distribution of a set of times.
type Latency struct {
	N             int
	P50, P99, Max time.Duration
}

// newLatency sorts times and describes them.
func newLatency(times []time.Duration) Latency {
	if len(times) == 0 {
		return Latency{}
	}
	slices.Sort(times)
	return Latency{
		N:   len(times),
		P50: percentile(times, 50),
		P99: percentile(times, 99),
		Max: times[len(times)-1],
	}
}

// PingPong measures round trips.
func (a *Agent) PingPong(args PingPongArgs, reply *Latency) error {
	conn, err := net.DialTimeout("tcp", args.Address, dialTimeout)
	if err != nil {
		return err
	}
	file, err := blocking(conn)
	if err != nil {
		return err
	}
	defer file.Close()
	time.Sleep(args.Idle)
	if _, err := roundTrips(int(file.Fd()), args.Rounds/warmShare, args.Limit/warmShare); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	times, err := roundTrips(int(file.Fd()), args.Rounds, args.Limit)
	*reply = newLatency(times)
	return err
}

// roundTrips makes a number of round trips, or fewer if the time is over, but
// at least one.
func roundTrips(fd, count int, limit time.Duration) ([]time.Duration, error) {
	one := make([]byte, 1)
	times := make([]time.Duration, 0, count)
	for begin := time.Now(); len(times) < count; {
		start := time.Now()
		if len(times) > 0 && start.Sub(begin) > limit {
			break
		}
		if err := roundTrip(fd, one); err != nil {
			return nil, fmt.Errorf("round trip %d: %w", len(times), err)
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

// roundTrip writes one byte to fd and reads one.
func roundTrip(fd int, one []byte) error {
	if _, err := syscall.Write(fd, one); err != nil {
		return err
	}
	n, err := readOne(fd, one)
	if err == nil && n == 0 {
		return syscall.ECONNRESET
	}
	return err
}

// readOne reads one byte, whatever signals come: the runtime preempts threads
// with one, and a read with a timeout is not restarted (signal(7)).
func readOne(fd int, one []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, one)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// servePingPong returns every byte of one connection.
func servePingPong(conn net.Conn) {
	file, err := blocking(conn)
	if err != nil {
		return
	}
	defer file.Close()
	one := make([]byte, 1)
	for {
		n, err := readOne(int(file.Fd()), one)
		if err != nil || n == 0 {
			return
		}
		if _, err := syscall.Write(int(file.Fd()), one); err != nil {
			return
		}
	}
}

// blocking takes the socket out of Go's poller and closes conn: a read
// then wakes its thread straight from the kernel, as it does in a C program,
// so that the helper's latency is measured and not our scheduler's. Reads end
// with EAGAIN after pingTimeout.
func blocking(conn net.Conn) (*os.File, error) {
	defer conn.Close()
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	timeout := syscall.NsecToTimeval(int64(pingTimeout))
	// Fd sets the descriptor to blocking mode.
	if err := syscall.SetsockoptTimeval(int(file.Fd()), syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout); err != nil {
		file.Close()
		return nil, os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	return file, nil
}
