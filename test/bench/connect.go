package main

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ConnectArgs describes clients that connect and close as fast as they can.
type ConnectArgs struct {
	Address  string // of the server that closes at once
	Clients  int
	Duration time.Duration
}

// Connects is what the clients did.
type Connects struct {
	Done    int           // connected, read the end of file and closed within Elapsed
	Failed  int           // refused, reset or cut off
	Late    int           // timed out, connecting or waiting for the end of file
	Elapsed time.Duration // as asked for; what was under way at its end is not in Done
	First   string        // one of the failures, for the notes
	Took    Latency       // of those done
}

// PerSecond is the rate of whole connections.
func (c Connects) PerSecond() float64 {
	return float64(c.Done) / c.Elapsed.Seconds()
}

// FailedPercent is the share of attempts that did not work.
func (c Connects) FailedPercent() float64 {
	total := c.Done + c.Failed + c.Late
	if total == 0 {
		return 100
	}
	return 100 * float64(c.Failed+c.Late) / float64(total)
}

// Connect runs the clients for the duration.
func (a *Agent) Connect(args ConnectArgs, reply *Connects) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex // guards reply and times
		times []time.Duration
		end   = time.Now().Add(args.Duration)
	)
	for range args.Clients {
		group.Go(func() {
			part, took := connectUntil(args.Address, end)
			mu.Lock()
			defer mu.Unlock()
			reply.add(part)
			times = append(times, took...)
		})
	}
	group.Wait()
	reply.Elapsed = args.Duration
	reply.Took = newLatency(times)
	return nil
}

// add sums up the counts of two clients.
func (c *Connects) add(other Connects) {
	c.Done += other.Done
	c.Failed += other.Failed
	c.Late += other.Late
	if c.First == "" {
		c.First = other.First
	}
}

// connectUntil is one client: it starts connections until end.
func connectUntil(address string, end time.Time) (Connects, []time.Duration) {
	var (
		count Connects
		times []time.Duration
	)
	for {
		start := time.Now()
		if start.After(end) {
			return count, times
		}
		switch err := connectOnce(address); {
		case err == nil && time.Now().Before(end):
			count.Done++
			times = append(times, time.Since(start))
		case err == nil:
		case timedOut(err):
			count.Late++
			count.First = err.Error()
		default:
			count.Failed++
			count.First = err.Error()
		}
	}
}

// connectOnce connects, waits for the server's end of file and closes.
func connectOnce(address string) error {
	conn, err := net.DialTimeout("tcp", address, dialTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, conn)
	if err == nil && n != 0 {
		return fmt.Errorf("%d bytes from a server that sends none", n)
	}
	return err
}

// Reach connects until it works or the limit (in time) is over: a guest may
// run before its network does.
func (a *Agent) Reach(args ReachArgs, _ *Nothing) error {
	return reach(args.Address, args.Limit)
}

// ReachArgs says which server must be reached, and how soon.
type ReachArgs struct {
	Address string
	Limit   time.Duration
}

// Bounds of reach: a try may take as long as a loaded machine needs for one
// connect, and tries that fail at once are this far apart.
const (
	reachTry   = 250 * time.Millisecond
	reachPause = 100 * time.Microsecond
)

// reach connects to address until it works or limit is over.
func reach(address string, limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		conn, err := net.DialTimeout("tcp", address, reachTry)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return err
		}
		time.Sleep(reachPause)
	}
}
