package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
)

// Servers are the addresses (host and port) of what the outside offers.
type Servers struct {
	Sink     string // TCP: counts what it reads
	Source   string // TCP: writes for ever
	PingPong string // TCP: returns single bytes
	Close    string // TCP: accepts and closes
	Drain    string // UDP: counts runs
	Echo     string // UDP: returns datagrams
	DNS      string // UDP: answers queries
	Trains   string // UDP: counts what it reads

	TrainSource string // UDP: sends to who asks

	// Hold are TCP servers that accept any number of connections and return
	// single bytes: several, because a guest has not 50,000 ports.
	Hold []string
}

// all are the places of all addresses.
func (s *Servers) all() []*string {
	places := []*string{&s.Sink, &s.Source, &s.PingPong, &s.Close, &s.Drain, &s.Echo, &s.DNS, &s.Trains, &s.TrainSource}
	for i := range s.Hold {
		places = append(places, &s.Hold[i])
	}
	return places
}

// serverCount is their number.
const serverCount = 9 + holdServers

// ServeArgs says where the servers shall be.
type ServeArgs struct {
	Address string // IP address of all of them

	// FirstPort is the port of the first server; the others have the next ones.
	// 0 is ports of the kernel's choice.
	FirstPort uint16

	DNSPort string // of that server alone; empty means that it is like the others
}

// port is where the n-th server, from 0, listens.
func (a ServeArgs) port(n int) string {
	if a.FirstPort == 0 {
		return "0"
	}
	return strconv.Itoa(int(a.FirstPort) + n)
}

// Serve opens all servers and replies with where they are. They live as long
// as the process.
func (a *Agent) Serve(args ServeArgs, reply *Servers) error {
	running := new(service)
	if err := a.serve(context.Background(), args, running, reply); err != nil {
		return errors.Join(err, running.Close())
	}
	return nil
}

// A service is a set of servers. It owns one goroutine for each and one for
// each TCP connection.
type service struct {
	open  []io.Closer
	group sync.WaitGroup
}

// Close stops listening and waits until all clients have closed their
// connections.
func (s *service) Close() error {
	var errs []error
	for _, socket := range s.open {
		errs = append(errs, socket.Close())
	}
	s.group.Wait()
	return errors.Join(errs...)
}

// holdServers is how many servers hold connections.
const holdServers = 4

// A streamServer is a TCP server: where its address goes, and what it does
// with a connection.
type streamServer struct {
	at    *string
	serve func(net.Conn)
}

// A datagramServer is the same for UDP, with a port that is empty for the next
// one.
type datagramServer struct {
	at    *string
	port  string
	serve func(*net.UDPConn)
}

// serve adds all servers to running.
func (a *Agent) serve(ctx context.Context, args ServeArgs, running *service, at *Servers) error {
	streams := []streamServer{
		{&at.Sink, a.serveSink},
		{&at.Source, serveSource},
		{&at.PingPong, servePingPong},
		{&at.Close, func(net.Conn) {}},
	}
	at.Hold = make([]string, holdServers)
	for i := range at.Hold {
		streams = append(streams, streamServer{&at.Hold[i], serveHold})
	}
	for _, server := range streams {
		listener, err := listenTCP(ctx, net.JoinHostPort(args.Address, args.port(len(running.open))))
		if err != nil {
			return err
		}
		*server.at = listener.Addr().String()
		running.open = append(running.open, listener)
		running.group.Go(func() { running.accept(listener, server.serve) })
	}
	datagrams := []datagramServer{
		{&at.Drain, "", a.datagram.serve},
		{&at.Echo, "", serveEcho},
		{&at.DNS, args.DNSPort, serveDNS},
		{&at.Trains, "", a.serveTrains},
		{&at.TrainSource, "", serveTrainSource},
	}
	for _, server := range datagrams {
		port := cmp.Or(server.port, args.port(len(running.open)))
		conn, err := listenUDP(ctx, net.JoinHostPort(args.Address, port))
		if err != nil {
			return err
		}
		*server.at = conn.LocalAddr().String()
		running.open = append(running.open, conn)
		running.group.Go(func() { server.serve(conn) })
	}
	return nil
}

// accept hands every connection of listener to serve, on a goroutine of its
// own, and closes it afterwards. It returns when the listener is closed; the
// connections end with their clients.
func (s *service) accept(listener net.Listener, serve func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that was reset before we took it
		}
		s.group.Go(func() {
			defer conn.Close()
			serve(conn)
		})
	}
}

// listenTCP listens on address with plain TCP: Go's default listener speaks
// MPTCP, which no peer does and which costs.
func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	return config.Listen(ctx, "tcp", address)
}

// listenUDP listens on address, with room for bursts.
func listenUDP(ctx context.Context, address string) (*net.UDPConn, error) {
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	conn := packets.(*net.UDPConn)
	if err := conn.SetReadBuffer(socketBuffer); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
