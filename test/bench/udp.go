package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// socketBuffer is asked for on the sockets of the outside, so that a
	// burst is lost in the helper or nowhere. The kernel caps it at
	// net.core.rmem_max.
	socketBuffer = 4 << 20

	// sinkBatch is the number of datagrams that a sink takes per system call.
	sinkBatch = 64

	// sendTick is the pause of a paced sender: short, so that a burst is a
	// few datagrams at the usual rates and not a queue full.
	sendTick = 200 * time.Microsecond
)

// A sink counts the datagrams of one run. It is safe for concurrent use.
type sink struct {
	run   atomic.Uint64 // datagrams of other runs are not counted
	count atomic.Int64
}

// Expect makes the agent's sink count the datagrams of a run, from zero.
func (a *Agent) Expect(run uint64, _ *Nothing) error {
	a.datagram.run.Store(run)
	a.datagram.count.Store(0)
	return nil
}

// Counted replies with the datagrams of the current run.
func (a *Agent) Counted(_ Nothing, count *int64) error {
	*count = a.datagram.count.Load()
	return nil
}

// serve counts datagrams until conn is closed.
func (s *sink) serve(conn *net.UDPConn) {
	messages := make([]ipv4.Message, sinkBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	packets := ipv4.NewPacketConn(conn)
	for {
		n, err := packets.ReadBatch(messages, 0)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier reply
		}
		run := s.run.Load()
		for _, message := range messages[:n] {
			if message.N >= 8 && binary.BigEndian.Uint64(message.Buffers[0]) == run {
				s.count.Add(1)
			}
		}
	}
}

// SpoutArgs describes datagrams at a steady rate.
type SpoutArgs struct {
	Address  string
	Run      uint64 // in the first 8 bytes of each
	Size     int    // bytes of payload, at least 8
	Rate     int    // datagrams per second
	Duration time.Duration
}

// Spouted is what left the sender.
type Spouted struct {
	Sent    int
	Elapsed time.Duration
}

// Spout sends datagrams at a rate, or as fast as it can if that is slower.
func (a *Agent) Spout(args SpoutArgs, reply *Spouted) error {
	conn, err := net.Dial("udp", args.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	payload := make([]byte, max(args.Size, 8))
	binary.BigEndian.PutUint64(payload, args.Run)
	start := time.Now()
	for {
		elapsed := time.Since(start)
		if elapsed >= args.Duration {
			*reply = Spouted{Sent: reply.Sent, Elapsed: elapsed}
			return nil
		}
		owed := int(elapsed.Seconds()*float64(args.Rate)) - reply.Sent
		for range min(owed, sinkBatch) {
			// An error here is a full queue or an ICMP answer: it counts as
			// sent, so that it shows as loss.
			_, _ = conn.Write(payload)
			reply.Sent++
		}
		if owed <= sinkBatch {
			pause(sendTick)
		}
	}
}

// pause sleeps in the kernel: time.Sleep is not finer than a millisecond when
// the process has nothing else to do.
func pause(d time.Duration) {
	interval := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&interval, nil) // a signal only makes it shorter
}
