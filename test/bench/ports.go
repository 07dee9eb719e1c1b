package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Ports are what a helper publishes on all of the host's addresses, under the
// same numbers and for TCP and UDP. The zero value is none.
type Ports struct {
	First uint16
	Count int
}

// publishedPorts are the ports of the guest's servers: below those that the
// kernel gives to clients.
func publishedPorts() Ports { return Ports{First: 20001, Count: serverCount} }

// String is the range as most helpers want it.
func (p Ports) String() string { return fmt.Sprintf("%d-%d", p.First, p.last()) }

// last is the last of the ports.
func (p Ports) last() int { return int(p.First) + p.Count - 1 }

// networks are the protocols of published ports.
func networks() []string { return []string{"tcp", "udp"} }

// options returns the words that make a helper publish ports when it starts.
func (p Ports) options(kind Kind) []string {
	if p.Count == 0 && kind != Pasta {
		return nil
	}
	var words []string
	switch kind {
	case Taproot:
		for _, network := range networks() {
			words = append(words, fmt.Sprintf("--publish=0.0.0.0:%v:%[1]v/%s", p, network))
		}
	case Pasta:
		listen := "none"
		if p.Count > 0 {
			listen = p.String()
		}
		words = append(words, "-t", listen, "-u", listen)
	case Rootlesskit:
		for port := int(p.First); port <= p.last(); port++ {
			for _, network := range networks() {
				words = append(words, "-p", fmt.Sprintf("0.0.0.0:%d:%[1]d/%s", port, network))
			}
		}
	}
	return words
}

// Forward makes slirp4netns publish ports, which it does only when it is asked
// by its socket. Other helpers did it when they started.
func (l *Launcher) Forward(args LaunchArgs, _ *Nothing) error {
	if args.Helper.Kind != Slirp4netns {
		return nil
	}
	for port := int(args.Ports.First); port <= args.Ports.last(); port++ {
		for _, network := range networks() {
			if err := forwardPort(args.socket(), network, port); err != nil {
				return fmt.Errorf("publish %s port %d: %w", network, port, err)
			}
		}
	}
	return nil
}

// forwardPort asks a slirp4netns for one port, and waits for the socket if it is
// not there yet.
func forwardPort(path, network string, port int) error {
	conn, err := dialSocket(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, `{"execute":"add_hostfwd","arguments":{"proto":%q,"host_addr":"0.0.0.0","host_port":%d,`+
		`"guest_addr":"10.0.2.100","guest_port":%[2]d}}`, network, port)
	if err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	var reply struct {
		Error *struct{ Desc string }
	}
	if err := json.NewDecoder(conn).Decode(&reply); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if reply.Error != nil {
		return errors.New(reply.Error.Desc)
	}
	return nil
}

// dialSocket connects to a Unix socket that is about to appear.
func dialSocket(path string) (*net.UnixConn, error) {
	for end := time.Now().Add(startPatience); ; time.Sleep(reachPause) {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil || time.Now().After(end) {
			return conn, err
		}
	}
}
