package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Sizes of bulk datagrams. QUIC stacks give the kernel a train of datagrams of
// one size with UDP_SEGMENT, and take trains with UDP_GRO (udp(7), Linux 4.18
// and 5.0).
const (
	segmentSize  = 1400 // payload of a datagram
	segmentTrain = 44   // datagrams: as many as fit in 64 KiB with headers
	trainBatch   = 16   // trains that a receiver takes per system call
)

// segmentKey names the row of a direction.
func (from side) segmentKey(down bool) string {
	return from.key("udp", "segment", from.direction(down))
}

// segmentRows returns the rows of bulk datagrams.
func segmentRows(from side) []Row {
	var rows []Row
	for _, down := range []bool{false, true} {
		title := from.title(fmt.Sprintf("UDP_SEGMENT/GRO %s, %d B", from.direction(down), segmentSize))
		rows = append(rows, Row{Key: from.segmentKey(down), Title: title, Unit: "Gbit/s"})
	}
	return rows
}

// segments measures datagrams sent in trains as fast as the sender can. The
// figure is what arrived, however much was lost.
func segments(from side, down bool) measurement {
	key := from.segmentKey(down)
	return measurement{keys: []string{key}, make: func(ctx context.Context, t *turn) error {
		method, address, receiver := "SendTrains", t.at(from).Trains, t.server(from)
		if down {
			method, address, receiver = "FetchTrains", t.at(from).TrainSource, t.client(from)
		}
		args := TrainArgs{Address: address, Duration: t.pace.warm + t.pace.window + overrun}
		call := t.client(from).start(method, args, &Nothing{})
		got, err := t.watch(ctx, receiver, t.pace.window)
		if err != nil {
			return err
		}
		t.record(key, got.gigabits())
		return await(ctx, call)
	}}
}

// TrainArgs describes trains of datagrams.
type TrainArgs struct {
	Address  string // of the server that counts them, or that sends them
	Duration time.Duration
}

// SendTrains sends trains until the duration is over.
func (a *Agent) SendTrains(args TrainArgs, _ *Nothing) error {
	conn, to, err := openTrains(args.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	return sendTrains(conn, to, args.Duration)
}

// FetchTrains asks the outside for trains and counts what comes until the
// duration is over.
func (a *Agent) FetchTrains(args TrainArgs, _ *Nothing) error {
	conn, to, err := openTrains(args.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := binary.BigEndian.AppendUint64(nil, uint64(args.Duration))
	if _, err := conn.WriteToUDPAddrPort(request, to); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(args.Duration)); err != nil {
		return err
	}
	return ignoreTimeout(a.receiveTrains(conn))
}

// openTrains makes a socket for trains to and from address.
func openTrains(address string) (*net.UDPConn, netip.AddrPort, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, to, err
	}
	conn, err := listenUDP(context.Background(), netip.AddrPortFrom(netip.IPv4Unspecified(), 0).String())
	return conn, to, err
}

// sendTrains sends trains until the duration is over. Where the kernel refuses
// one, because the device computes no checksums (EIO), it does what QUIC stacks
// do and sends datagrams one by one, many per system call.
func sendTrains(conn *net.UDPConn, to netip.AddrPort, duration time.Duration) error {
	if err := setOption(conn, unix.UDP_SEGMENT, segmentSize); err != nil {
		return err
	}
	train := make([]byte, segmentTrain*segmentSize)
	for end := time.Now().Add(duration); time.Now().Before(end); {
		_, err := conn.WriteToUDPAddrPort(train, to)
		if errors.Is(err, unix.EIO) {
			return sendLoose(conn, to, end)
		}
		if err != nil {
			pause(sendTick) // a full queue, or an ICMP answer
		}
	}
	return nil
}

// sendLoose sends single datagrams until end.
func sendLoose(conn *net.UDPConn, to netip.AddrPort, end time.Time) error {
	messages := make([]ipv4.Message, segmentTrain)
	payload := make([]byte, segmentSize)
	for i := range messages {
		messages[i].Buffers = [][]byte{payload}
		messages[i].Addr = net.UDPAddrFromAddrPort(to)
	}
	packets := ipv4.NewPacketConn(conn)
	for time.Now().Before(end) {
		if _, err := packets.WriteBatch(messages, 0); err != nil {
			pause(sendTick)
		}
	}
	return nil
}

// receiveTrains counts what comes in until conn is closed or its deadline.
func (a *Agent) receiveTrains(conn *net.UDPConn) error {
	if err := setOption(conn, unix.UDP_GRO, 1); err != nil {
		return err
	}
	messages := make([]ipv4.Message, trainBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, 1<<16)}
	}
	packets := ipv4.NewPacketConn(conn)
	for {
		n, err := packets.ReadBatch(messages, 0)
		switch {
		case errors.Is(err, net.ErrClosed), timedOut(err):
			return err
		case err != nil:
			continue // an ICMP error of an earlier datagram
		}
		for _, message := range messages[:n] {
			a.received.n.Add(int64(message.N))
		}
	}
}

// setOption sets a UDP option of conn.
func setOption(conn *net.UDPConn, option, value int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, option, value)
	}); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt UDP_SEGMENT or UDP_GRO", set)
}

// serveTrains counts bulk datagrams.
func (a *Agent) serveTrains(conn *net.UDPConn) {
	_ = a.receiveTrains(conn) // it ends with conn
}

// serveTrainSource sends trains to everybody who asks, for as long as asked, one
// after the other.
func serveTrainSource(conn *net.UDPConn) {
	request := make([]byte, 8)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(request)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < len(request) {
			continue
		}
		duration := time.Duration(binary.BigEndian.Uint64(request))
		_ = sendTrains(conn, from, min(duration, stepLimit))
	}
}
