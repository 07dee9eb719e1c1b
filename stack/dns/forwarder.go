package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxInFlight bounds the messages under way, over UDP and TCP together.
	// Each holds a descriptor and up to 64 KiB; 256 are a quarter of the usual
	// soft limit of 1024 descriptors, and 17 MiB. Nothing is queued behind
	// them: with the servers down for 5 s it takes 51 new lookups a second to
	// get there, and resolvers repeat what is dropped.
	maxInFlight = 256

	// defaultTimeout is how long one server has. RFC 1123 section 6.1.3.3 asks
	// for at least 5 s, which is also what glibc's resolver waits.
	defaultTimeout = 5 * time.Second

	// attemptsInTotal bounds the whole of a lookup, in timeouts. Two, because
	// glibc's resolver gives up after two of 5 s, and SERVFAIL should not come
	// later than that. If there are more servers than that they share it.
	attemptsInTotal = 2

	// maxMessage is the largest message, over UDP and TCP, in bytes.
	maxMessage = 65535
)

// ErrMalformed is the error of a message that is not a query that can be
// forwarded. It gets no answer.
var ErrMalformed = errors.New("malformed query")

// ErrBusy is the error of a datagram that arrives while as many as may be are
// under way. It gets no answer; the guest will ask again.
var ErrBusy = errors.New("too many queries under way")

// A Config says how to forward.
type Config struct {
	// Hosts are the names answered here, lower case, without the final dot:
	// their addresses for A and AAAA, nothing for other types. The map is
	// copied.
	Hosts map[string][]netip.Addr

	// Dial opens the connections to servers; network is "udp" or "tcp". nil
	// means a net.Dialer, without multipath TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Control is called by the default Dial with each new socket, before it is
	// connected, as net.Dialer's is: to bind it, for instance. May be nil.
	Control func(network, address string, c syscall.RawConn) error

	// Timeout is how long one server has for its answer; 0 means 5 s. A lookup
	// takes at most twice as long, however many servers there are.
	Timeout time.Duration

	// Log gets what goes wrong, as debug messages; nil means nothing.
	Log *slog.Logger
}

// Stats count what a Forwarder did since it was made.
type Stats struct {
	Queries    uint64 // messages that came from the guest
	Local      uint64 // of these: answered from Config.Hosts
	Failed     uint64 // answered with SERVFAIL because no server answered
	Malformed  uint64 // dropped, see ErrMalformed
	Busy       uint64 // dropped, see ErrBusy
	Mismatched uint64 // replies ignored because they do not belong to the query
}

// A Forwarder forwards DNS messages. It is safe for concurrent use and has no
// goroutines of its own: those of a call are gone when the call returns.
type Forwarder struct {
	hosts   map[string][]netip.Addr
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration // of one attempt
	log     *slog.Logger

	servers atomic.Pointer[[]*server] // the slice is never changed
	slots   chan struct{}             // one element for each message under way

	// buffers holds *[maxMessage]byte for replies over UDP. BenchmarkDatagram
	// without it: 66 KB instead of 2 KB of garbage for each lookup.
	buffers sync.Pool

	queries, local, failed, malformed, busy, mismatched atomic.Uint64
}

// New returns a Forwarder that has no servers yet.
func New(config Config) *Forwarder {
	f := &Forwarder{
		hosts:   make(map[string][]netip.Addr, len(config.Hosts)),
		dial:    config.Dial,
		timeout: config.Timeout,
		log:     config.Log,
		slots:   make(chan struct{}, maxInFlight),
		buffers: sync.Pool{New: func() any { return new([maxMessage]byte) }},
	}
	for name, addrs := range config.Hosts {
		f.hosts[strings.ToLower(name)] = append([]netip.Addr(nil), addrs...)
	}
	if f.dial == nil {
		dialer := &net.Dialer{Control: config.Control}
		dialer.SetMultipathTCP(false) // one path is enough, and sandboxes know it
		f.dial = dialer.DialContext
	}
	if f.timeout <= 0 {
		f.timeout = defaultTimeout
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	f.SetServers(nil)
	return f
}

// SetServers replaces the servers that are asked, in the order given. Lookups
// under way go on with the old ones. Without servers everything but
// Config.Hosts is answered with SERVFAIL.
func (f *Forwarder) SetServers(addrs []netip.AddrPort) {
	list := make([]*server, len(addrs))
	for i, a := range addrs {
		list[i] = &server{addr: a}
	}
	f.servers.Store(&list)
}

// Stats returns the counters.
func (f *Forwarder) Stats() Stats {
	return Stats{
		Queries:    f.queries.Load(),
		Local:      f.local.Load(),
		Failed:     f.failed.Load(),
		Malformed:  f.malformed.Load(),
		Busy:       f.busy.Load(),
		Mismatched: f.mismatched.Load(),
	}
}

// Datagram forwards query, one message that the guest sent over UDP, and
// returns the message to answer it with. It blocks until a server answers, at
// most for the time that Config.Timeout tells. The reply is the caller's;
// query is not kept and not changed. An error, which is ErrMalformed, ErrBusy
// or that of ctx, means: no answer.
func (f *Forwarder) Datagram(ctx context.Context, query []byte) ([]byte, error) {
	reply, err := f.answerHere(query)
	if reply != nil || err != nil {
		return reply, err
	}
	select {
	case f.slots <- struct{}{}:
	default:
		f.busy.Add(1)
		return nil, ErrBusy
	}
	defer func() { <-f.slots }()
	return f.lookup(ctx, query, f.overUDP)
}

// answerHere counts and checks query. It returns nil for a query that must be
// forwarded.
func (f *Forwarder) answerHere(query []byte) (reply []byte, err error) {
	f.queries.Add(1)
	if !isQuery(query) {
		f.malformed.Add(1)
		return nil, ErrMalformed
	}
	addrs, ok := f.lookupHost(query)
	if !ok {
		return nil, nil
	}
	reply, err = hostReply(query, addrs)
	if err != nil {
		f.malformed.Add(1)
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	f.local.Add(1)
	return reply, nil
}

// An exchange asks one server. It returns an error if there was no answer
// before ctx ended.
type exchange func(ctx context.Context, server netip.AddrPort, query []byte) (reply []byte, err error)

// lookup asks the servers one after the other by way of ask. An error is
// ctx's; if all servers fail the reply says so.
func (f *Forwarder) lookup(ctx context.Context, query []byte, ask exchange) ([]byte, error) {
	deadline := time.Now().Add(attemptsInTotal * f.timeout)
	servers := inOrder(*f.servers.Load(), time.Now())
	var refusal []byte
	for i, s := range servers {
		share := time.Until(deadline) / time.Duration(len(servers)-i)
		reply, err := f.attempt(ctx, min(f.timeout, share), s, query, ask)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			continue
		case !isRefusal(reply):
			return reply, nil
		}
		if refusal == nil {
			refusal = reply
		}
	}
	if refusal != nil {
		return refusal, nil
	}
	f.failed.Add(1)
	return failure(query), nil
}

// attempt asks one server, and remembers how that went.
func (f *Forwarder) attempt(ctx context.Context, d time.Duration, s *server, query []byte, ask exchange) ([]byte, error) {
	attempt, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	reply, err := ask(attempt, s.addr, query)
	switch {
	case err == nil:
		s.praise()
	case ctx.Err() == nil && s.blame(time.Now()): // the caller's end is nobody's fault
		if attempt.Err() != nil {
			err = attempt.Err() // tells more than that the connection was closed
		}
		f.log.Debug("resolver does not answer", "server", s.addr, "err", err)
	}
	return reply, err
}
