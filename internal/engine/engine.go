package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"taproot/stack"
	"taproot/stack/dhcp"
	"taproot/stack/dns"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/tap"
)

// EngineName is argv[0] of the engine. A main that finds it there calls
// EngineMain and exits with its result.
const EngineName = "taproot-engine"

// wireFD is the engine's end of the wire: the first descriptor after standard
// error.
const wireFD = 3

// EngineMain is the whole of the engine's process: it gets its work from the
// supervisor over descriptor 3 and returns the process's exit status.
func EngineMain() int {
	if err := unix.SetNonblock(wireFD, true); err != nil {
		fmt.Fprintln(os.Stderr, "taproot-engine: started without its supervisor")
		return 125
	}
	unix.CloseOnExec(wireFD)
	w := &wire{os.NewFile(wireFD, "supervisor")}
	s, device, err := receiveStart(w)
	if errors.Is(err, io.EOF) {
		return 0 // the guest was not made
	}
	if err == nil {
		err = serve(w, s, device)
	}
	if err != nil {
		_ = w.send(message{Failed: err.Error()}, nil) // the supervisor may be gone
		return 125
	}
	return 0
}

// receiveStart returns what the engine is to do, and the device. The host may
// change before the engine is started; what is said of it then is newer.
func receiveStart(w *wire) (*spec, *os.File, error) {
	var host *hostState
	for {
		m, device, err := w.receive()
		switch {
		case err != nil:
			return nil, nil, err
		case m.Host != nil:
			host = m.Host
		case m.Start == nil || device == nil:
			return nil, nil, errors.New("first message without a start")
		default:
			if host != nil {
				m.Start.Host = *host
			}
			return m.Start, device, nil
		}
	}
}

// serve moves packets until the supervisor or the device is gone.
func serve(w *wire, s *spec, file *os.File) error {
	setProcs()
	log := slog.New(slog.DiscardHandler)
	if s.Verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("role", "engine")
	}
	g, err := newGateway(s, file, log)
	if err != nil {
		return err
	}
	if err := confine(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		g.follow(w)
	})
	if err := w.send(message{Ready: true}, nil); err != nil {
		return err
	}
	err = g.run(ctx)
	if err != nil && ctx.Err() == nil {
		_ = w.send(message{Gone: err.Error()}, nil)
	}
	w.close()
	wg.Wait()
	return nil
}

// setProcs keeps the engine on one processor at a time: the way of a frame
// from reader to processor to relay then needs no other thread to be woken,
// which is worth more than a second processor. (Up, one flow, MTU 1500: 8
// Gbit/s with two, 15 with one.)
func setProcs() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
}

// A gateway is everything that stands between the device and the host.
type gateway struct {
	log   *slog.Logger
	spec  *spec
	rules *policy.Rules
	stack *stack.Stack
	flows *flow.Table
	tcp   *nat.TCP
	udp   *nat.UDP
	echo  *nat.Echo
	dns   *dns.Forwarder
	dhcp  *dhcp.Server
	host  atomic.Pointer[hostState]

	dnsConns chan struct{} // as many as there are connections

	// services are the gateway's own answers that are being worked out.
	services sync.WaitGroup
	ctx      context.Context // ends with run
}

// hostName is the name of the gateway inside the guest.
const hostName = "host.taproot.internal"

// newGateway puts the parts together. Nothing moves yet.
func newGateway(s *spec, file *os.File, log *slog.Logger) (*gateway, error) {
	device, err := tap.New(file, s.Features)
	if err != nil {
		return nil, err
	}
	rules, err := policy.New(policy.Config{
		Gateway4: s.Gateway4, Gateway6: s.Gateway6, Resolver4: s.Resolver4, Resolver6: s.Resolver6,
		Guests:       valid(s.Guest4, s.Guest6),
		HostLoopback: s.HostLoopback, AllowHost: s.AllowHost, AllowLinkLocal: s.AllowLinkLocal,
		HostAddrs: s.Host.Addresses,
	})
	if err != nil {
		return nil, err
	}
	g := &gateway{log: log, spec: s, rules: rules, flows: flow.New(flow.Config{}), dnsConns: make(chan struct{}, maxDNSConns)}
	if g.stack, err = stack.New(stack.Config{
		Device: device, MTU: s.MTU, MAC: s.MAC, Addresses: valid(s.Gateway4, s.Gateway6, s.Resolver4, s.Resolver6), Source: rules.Source,
	}); err != nil {
		return nil, err
	}
	g.addServices()
	return g, g.addNAT()
}

// addNAT makes the ways out and sets the stack's handlers.
func (g *gateway) addNAT() error {
	s := g.spec
	g.tcp = nat.NewTCP(nat.TCPConfig{Rules: g.rules, Flows: g.flows, Guest: g.stack, Log: g.log, Gateway4: s.Gateway4, Gateway6: s.Gateway6})
	var err error
	if g.udp, err = nat.NewUDP(nat.UDPConfig{HoldBack: true, Guest: g.stack, Rules: g.rules, Flows: g.flows, Log: g.log, Gateway4: s.Gateway4, Gateway6: s.Gateway6}); err != nil {
		return err
	}
	if g.echo, err = nat.NewEcho(nat.EchoConfig{Guest: g.stack, Rules: g.rules, Flows: g.flows, Log: g.log, Gateway4: s.Gateway4, Gateway6: s.Gateway6}); err != nil {
		return err
	}
	if err := nat.PingAllowed(); err != nil {
		g.log.Debug("no echo outside", "error", err)
	}
	g.stack.HandleTCP(g.handleTCP)
	g.stack.HandleUDP(g.handleUDP)
	g.stack.HandleIdle(g.udp.Flush)
	g.stack.HandleEcho(g.handleEcho)
	g.stack.HandleSolicitation(g.advertise)
	return nil
}

// run moves packets until ctx ends, or the device is gone, which is the error.
func (g *gateway) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.ctx = ctx
	var wg sync.WaitGroup
	for name, part := range map[string]func(context.Context) error{"tcp": g.tcp.Run, "udp": g.udp.Run, "icmp": g.echo.Run, "ra": g.advertiseUntil} {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				g.log.Error("stopped", "part", name, "error", err)
			}
		})
	}
	err := g.stack.Run(ctx)
	cancel()
	wg.Wait()
	g.services.Wait()
	return err
}

// follow takes what the supervisor says of the host until it is gone.
func (g *gateway) follow(w *wire) {
	for {
		m, f, err := w.receive()
		if f != nil {
			f.Close()
		}
		if err != nil {
			return
		}
		if m.Host != nil {
			g.setHost(*m.Host)
			g.log.Debug("host changed", "addresses", m.Host.Addresses, "servers", m.Host.Servers, "search", m.Host.Search)
		}
	}
}
