package main

import (
	"context"
	"io"
	"net"
)

// Servers are the addresses (host and port) of what the outside offers.
type Servers struct {
	Sink     string // TCP: counts what it reads
	Source   string // TCP: writes for ever
	PingPong string // TCP: returns single bytes
	Close    string // TCP: accepts and closes
	Hold     string // TCP: accepts and waits
	Drain    string // UDP: counts runs
	Echo     string // UDP: returns datagrams
}

// Serve opens all servers on address and replies with where they are. They
// live as long as the process.
func (a *Agent) Serve(address string, reply *Servers) error {
	_, err := a.serve(context.Background(), address, reply)
	return err
}

// serve opens all servers on address with ports of the kernel's choice. The
// caller closes what it returns, also when there is an error.
func (a *Agent) serve(ctx context.Context, address string, at *Servers) ([]io.Closer, error) {
	var open []io.Closer
	streams := []struct {
		at    *string
		serve func(net.Conn)
	}{
		{&at.Sink, a.serveSink},
		{&at.Source, serveSource},
		{&at.PingPong, servePingPong},
		{&at.Close, func(net.Conn) {}},
		{&at.Hold, serveHold},
	}
	for _, server := range streams {
		listener, err := listenTCP(ctx, net.JoinHostPort(address, "0"))
		if err != nil {
			return open, err
		}
		*server.at = listener.Addr().String()
		open = append(open, listener)
		go acceptLoop(listener, server.serve)
	}
	datagrams := []struct {
		at    *string
		serve func(*net.UDPConn) error
	}{
		{&at.Drain, a.datagram.serve},
		{&at.Echo, serveEcho},
	}
	for _, server := range datagrams {
		conn, err := listenUDP(ctx, net.JoinHostPort(address, "0"))
		if err != nil {
			return open, err
		}
		*server.at = conn.LocalAddr().String()
		open = append(open, conn)
		go server.serve(conn)
	}
	return open, nil
}
