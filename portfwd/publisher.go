package portfwd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack/flow"
)

// A PublisherConfig is what NewPublisher needs.
type PublisherConfig struct {
	// Dial connects to the guest through the stack, from any source. Its error
	// wraps a syscall.Errno; EADDRINUSE means that source and target are in
	// use together. nil: no inbound TCP rules but those to loopback only.
	Dial func(ctx context.Context, source, target netip.AddrPort) (Conn, error)

	// SendUDP sends a datagram to the guest, from any source. With segment
	// above zero, payload is several datagrams of that many bytes each, the
	// last of which may be shorter. nil: no inbound UDP rules but those to
	// loopback only.
	SendUDP func(source, destination netip.AddrPort, payload []byte, segment int) error

	// GuestSocket returns a new socket in the guest's namespace, neither bound
	// nor connected; family is AF_INET or AF_INET6, typ SOCK_STREAM or
	// SOCK_DGRAM. nil: no loopback rules.
	GuestSocket func(ctx context.Context, family, typ int) (*os.File, error)

	// UnixSocket returns a new socket that is connected to the target of a rule
	// with Listener.TargetUnix; rule is its id. nil: no such rules.
	UnixSocket func(ctx context.Context, rule int) (*os.File, error)

	// Mover moves the bytes of TCP connections, which live until its Run ends.
	// nil: no rules for TCP.
	Mover *relay.Mover

	// Flows counts the flows.
	Flows *flow.Table

	// Descriptors is what the sockets of clients must stay below. At it they are
	// reset.
	Descriptors socket.Ceiling

	// Addresses are the guest's and the gateway's, see Publisher.SetAddresses.
	Addresses Addresses

	// HostAddrs are the host's own addresses, see Publisher.SetHostAddrs.
	HostAddrs []netip.Addr

	// HoldBack lets HandleDatagram keep datagrams until Flush, so that several go
	// to the host in one call. Both must then be called on one goroutine.
	HoldBack bool

	// UDPIdle is how long a UDP flow lives without a datagram either way; 0
	// means 2 minutes (RFC 4787 REQ-5). It is rounded up to seconds. One whose
	// client has not gone on after an answer lives 30 seconds at most.
	UDPIdle time.Duration

	// Refused is told of TCP listeners whose clients the guest refuses, each ten
	// times a second at most. It must not block. nil: nobody is told.
	Refused func(SocketID)

	// Log gets each connection at level Debug; nil means no log.
	Log *slog.Logger
}

// A Conn is the guest's end of a TCP connection through the stack:
// *stack.Conn.
type Conn = relay.Stream

// Addresses are who is who in the guest's network. The zero Addr stands for a
// family that the guest does not have.
type Addresses struct {
	// Gateway4 and Gateway6 stand for clients that the guest must not see.
	Gateway4, Gateway6 netip.Addr

	// Guest4 and Guest6 are the targets of rules that name none.
	Guest4, Guest6 netip.Addr
}

// Stats count what became of connections and datagrams. Clients can cause all
// of it, so it is counted and not logged.
type Stats struct {
	Connected   atomic.Uint64 // TCP: both ends are connected
	Refused     atomic.Uint64 // TCP: by the target; the client was reset
	Unreachable atomic.Uint64 // TCP: no way to the target, or no answer; the client was reset
	Full        atomic.Uint64 // flows that met the limit; TCP clients were reset
	Evicted     atomic.Uint64 // UDP flows that were ended for these
	Exhausted   atomic.Uint64 // times that there was no descriptor left, for a client at least
	Dropped     atomic.Uint64 // UDP: messages that the next socket or the guest's link did not take
	Unroutable  atomic.Uint64 // clients for whom the guest has no address, or we have none to show
}

// A Publisher serves the sockets that a Table opened. It is safe for
// concurrent use.
type Publisher struct {
	Stats Stats

	cfg       PublisherConfig
	hostAddrs atomic.Pointer[addrSet]
	addresses atomic.Pointer[Addresses]
	direct    Direct // nil if there is none
	datagrams *datagrams
	acceptor  *socket.Poller // of TCP listeners
	freed     chan struct{}  // receives when a connection has ended
	spare     spare
	spots     spots

	connections sync.WaitGroup
	ctx         context.Context // ends with Run: dials give up, connections are reset
	end         context.CancelFunc

	mu sync.Mutex
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	listeners map[key]*listener
	// +checklocks:mu
	ids map[uint64]*listener // TCP, by what the poller calls them
	// +checklocks:mu
	lastID uint64
}

// An addrSet is never changed after it is published.
type addrSet map[netip.Addr]struct{}

// A key names a socket of a rule.
type key struct{ rule, index int }

// A listener is a published TCP or UDP socket.
type listener struct {
	Listener
	id     uint64
	socket *socket.Socket
	spots  []spot

	paused  bool      // guarded by Publisher.mu: it does not listen
	refused time.Time // guarded by Publisher.mu: when that was told last
}

// NewPublisher returns a Publisher whose Run is to be called once: it releases
// what the Publisher takes.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Flows == nil {
		return nil, errors.New("portfwd: Flows are missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	acceptor, err := socket.NewPoller()
	if err != nil {
		return nil, fmt.Errorf("portfwd: %w", err)
	}
	p := &Publisher{cfg: cfg, acceptor: acceptor, freed: make(chan struct{}, 1)}
	if p.datagrams, err = newDatagrams(p); err != nil {
		acceptor.Close()
		return nil, fmt.Errorf("portfwd: %w", err)
	}
	p.ctx, p.end = context.WithCancel(context.Background())
	p.SetHostAddrs(cfg.HostAddrs)
	p.SetAddresses(cfg.Addresses)
	p.spots.mu.Lock() // as below
	p.spots.sockets = make(map[spot]int)
	p.spots.mu.Unlock()
	p.mu.Lock() // nobody else has p yet, but checklocks cannot know
	defer p.mu.Unlock()
	p.listeners = make(map[key]*listener)
	p.ids = make(map[uint64]*listener)
	return p, nil
}

// SetHostAddrs replaces the host's own addresses: clients that have one of
// them are shown to the guest as the gateway. Connections that exist are not
// touched.
func (p *Publisher) SetHostAddrs(addrs []netip.Addr) {
	set := make(addrSet, len(addrs))
	for _, a := range addrs {
		set[a.Unmap().WithZone("")] = struct{}{}
	}
	p.hostAddrs.Store(&set)
}

// SetDirect has d connect to the guest, where it can, instead of the stack. It is called
// before Run.
func (p *Publisher) SetDirect(d Direct) { p.direct = d }

// SetAddresses replaces the guest's and the gateway's addresses. Connections
// that exist are not touched.
func (p *Publisher) SetAddresses(a Addresses) { p.addresses.Store(&a) }

// Add begins to serve a socket, which it takes over. A socket that it has
// already is no error.
func (p *Publisher) Add(l Listener, f *os.File) error {
	if err := p.serves(l); err != nil {
		f.Close()
		return fmt.Errorf("serve rule %d: %w", l.Rule, err)
	}
	s, err := socket.Take(f)
	if err != nil {
		return fmt.Errorf("serve rule %d: %w", l.Rule, err)
	}
	served := &listener{Listener: l, socket: s}
	served.spots = spotsOf(served)
	if err := p.add(served); err != nil {
		s.Release()
		return fmt.Errorf("serve rule %d: %w", l.Rule, err)
	}
	return nil
}

// serves returns why a listener cannot be served.
func (p *Publisher) serves(l Listener) error {
	missing := ""
	switch {
	case l.Proto != flow.TCP && l.Proto != flow.UDP:
		return fmt.Errorf("%v has no ports", l.Proto)
	case l.TargetPort == 0 && !l.TargetUnix:
		return errors.New("no target port")
	case l.Proto == flow.TCP && p.cfg.Mover == nil:
		missing = "Mover"
	case l.TargetUnix && p.cfg.UnixSocket == nil:
		missing = "UnixSocket"
	case l.TargetUnix:
	case l.Direction == Outbound:
	case l.Loopback && p.cfg.GuestSocket == nil:
		missing = "GuestSocket"
	case !l.Target.IsLoopback() && l.Proto == flow.TCP && p.cfg.Dial == nil:
		missing = "Dial"
	case !l.Target.IsLoopback() && l.Proto == flow.UDP && p.cfg.SendUDP == nil:
		missing = "SendUDP"
	}
	if missing != "" {
		return errors.New("the publisher was made without " + missing)
	}
	return nil
}

// add enters a listener. Errors leave its socket to the caller.
func (p *Publisher) add(l *listener) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key{l.Rule, l.Index}
	if p.closed {
		return os.ErrClosed
	}
	if old := p.listeners[k]; old != nil {
		l.socket.Release()
		p.resumeLocked(old) // what is published listens
		return nil
	}
	if l.Proto == flow.UDP {
		if err := p.datagrams.listen(l); err != nil {
			return err
		}
		p.listeners[k] = l
		p.spots.change(l, 1)
		return nil
	}
	p.lastID++
	l.id = p.lastID
	prepare(l.socket.FD())
	if err := p.acceptor.Add(l.socket.FD(), l.id); err != nil {
		return err
	}
	p.listeners[k], p.ids[l.id] = l, l
	p.spots.change(l, 1)
	return nil
}

// Remove closes the sockets of a rule, and returns when they are closed. TCP
// connections that exist go on, UDP flows end: their replies had to leave from
// that socket. It returns whether Listens has told of UDP ports of the rule, to
// which the guest may have flows: those do not end by themselves.
func (p *Publisher) Remove(rule int) (told bool) {
	for _, l := range p.remove(rule) {
		<-l.socket.Closed() // after what reads it at the moment, which does not block
		told = told || l.Proto == flow.UDP && len(l.spots) > 0
	}
	return told
}

// Kill ends the flows of a rule, as resets would. New ones there must not be: it
// comes after Remove.
func (p *Publisher) Kill(rule int) {
	for f := range p.cfg.Flows.All() {
		if f.Rule() == rule {
			f.Kill()
		}
	}
}

// remove takes the listeners of a rule out and gives up their sockets.
func (p *Publisher) remove(rule int) []*listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	var gone []*listener
	for k, l := range p.listeners {
		if k.rule == rule {
			p.removeLocked(k, l)
			gone = append(gone, l)
		}
	}
	return gone
}

// +checklocks:p.mu
func (p *Publisher) removeLocked(k key, l *listener) {
	delete(p.listeners, k)
	p.spots.change(l, -1)
	if l.Proto == flow.UDP {
		p.datagrams.close(l)
		return
	}
	delete(p.ids, l.id)
	_ = p.acceptor.Remove(l.socket.FD()) // fails only after its Close
	l.socket.Release()
}

// Run serves all sockets until ctx ends, then gives up dialling, closes them and
// returns nil; connections are the Mover's. It fails only if the host's
// poller does.
func (p *Publisher) Run(ctx context.Context) error {
	failed := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- p.accept() })
	wg.Go(func() { failed <- p.datagrams.read() })
	ticker := time.NewTicker(tickLength)
	defer ticker.Stop()
	var err error
	for running := true; running; {
		select {
		case <-ticker.C:
			p.datagrams.sweep()
		case err = <-failed:
			running = false
		case <-ctx.Done():
			running = false
		}
	}
	p.end()
	p.close()
	wg.Wait()
	p.connections.Wait()
	return err
}

// close closes all listeners, and makes accept and read return.
func (p *Publisher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for k, l := range p.listeners {
		p.removeLocked(k, l)
	}
	p.acceptor.Close()
	p.datagrams.end()
}
