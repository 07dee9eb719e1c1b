package dns

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// DefaultMessages bounds the messages under way over TCP. Each holds a
	// descriptor and up to 64 KiB; 256 are a quarter of the usual soft limit of
	// 1024 descriptors, and 17 MiB.
	DefaultMessages = 256

	// DefaultDatagrams is the same over UDP, where they cost about 1 KB each, and
	// a descriptor for several. Nothing is queued behind them: with the servers
	// down for 5 s it takes 205 new lookups a second to get there, and
	// resolvers repeat what is dropped.
	DefaultDatagrams = 1024

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

// ErrBusy is the error of a datagram that arrives while Config.MaxDatagrams are under
// way. It gets no answer; the guest will ask again.
var ErrBusy = errors.New("too many queries under way")

// A Config says how to forward.
type Config struct {
	// Hosts are the names answered here, lower case, without the final dot:
	// their addresses for A and AAAA, nothing for other types. The map is
	// copied.
	Hosts map[string][]netip.Addr

	// Dial opens the connections to servers; network is "udp" or "tcp". For UDP
	// it must not block, and return a connection with a descriptor
	// (socket.Conn). nil means a net.Dialer, without multipath TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Control is called by the default Dial with each new socket, before it is
	// connected, as net.Dialer's is: to bind it, for instance. May be nil.
	Control func(network, address string, c syscall.RawConn) error

	// Timeout is how long one server has for its answer; 0 means 5 s. A lookup
	// takes at most twice as long, however many servers there are.
	Timeout time.Duration

	// MaxDatagrams and MaxMessages are how many queries may be under way over UDP,
	// where more are dropped, and over TCP, where more wait; 0 means DefaultDatagrams
	// and DefaultMessages.
	MaxDatagrams, MaxMessages int

	// HoldBack lets Datagram keep questions until Flush, so that several go to a
	// server in one call. Both must then be called on one goroutine.
	HoldBack bool

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

// A Forwarder forwards DNS messages. It is safe for concurrent use. Its
// goroutines are those of Run and of ServeConn.
type Forwarder struct {
	hosts   map[string][]netip.Addr
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration // of one attempt
	log     *slog.Logger

	servers atomic.Pointer[[]*server] // the slice is never changed
	slots   chan struct{}             // one element for each message under way over TCP

	asker    *asker
	underWay atomic.Int64 // over UDP
	most     int64        // of them

	queries, local, failed, malformed, busy, mismatched atomic.Uint64
}

// New returns a Forwarder that has no servers yet. Its Run is to be called.
func New(config Config) (*Forwarder, error) {
	f := &Forwarder{
		hosts:   make(map[string][]netip.Addr, len(config.Hosts)),
		dial:    config.Dial,
		timeout: config.Timeout,
		log:     config.Log,
		most:    int64(cmp.Or(config.MaxDatagrams, DefaultDatagrams)),
		slots:   make(chan struct{}, cmp.Or(config.MaxMessages, DefaultMessages)),
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
	var err error
	if f.asker, err = newAsker(f.dial, &f.mismatched); err != nil {
		return nil, err
	}
	if config.HoldBack {
		f.asker.outbox = new(outbox)
	}
	return f, nil
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

// A Use is how many of something there are, and may be.
type Use struct{ Now, Max int }

// Limits returns how many queries are under way over UDP, where more are dropped,
// and over TCP, where more wait.
func (f *Forwarder) Limits() (datagrams, messages Use) {
	return Use{int(f.underWay.Load()), int(f.most)}, Use{len(f.slots), cap(f.slots)}
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

// Run hands replies on until ctx ends, and releases what the forwarder has taken:
// it must be called once, and what is asked over UDP before its start waits for it.
// It owns one goroutine besides the caller's, which has returned when it returns.
// It fails only if the host's poller does.
func (f *Forwarder) Run(ctx context.Context) error { return f.asker.run(ctx) }

// Datagram forwards query, one message that the guest sent over UDP. It does not
// block, and neither keeps nor changes query. answer is called with the message
// to answer with, once, as soon as a server has answered or all had the time that
// Config.Timeout tells; that may be before Datagram returns. It must not block,
// and reply is valid only during the call. After an error, ErrMalformed or
// ErrBusy, or when Run ends, there is no answer.
func (f *Forwarder) Datagram(query []byte, answer func(reply []byte)) error {
	reply, err := f.answerHere(query)
	if err != nil {
		return err
	}
	if reply != nil {
		answer(reply)
		return nil
	}
	if f.underWay.Add(1) > f.most {
		f.underWay.Add(-1)
		f.busy.Add(1)
		return ErrBusy
	}
	l := &lookup{f: f, round: f.newRound(bytes.Clone(query)), id: id(query), answer: answer}
	l.begin()
	return nil
}

// Flush sends what Datagram holds back. It must be called on the goroutine that
// calls Datagram, when there are no more queries for now.
func (f *Forwarder) Flush() { f.asker.flush() }

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
	r := f.newRound(query)
	for {
		s, patience := r.server()
		if s == nil {
			return f.giveUp(&r), nil
		}
		reply, err := f.attempt(ctx, patience, s, query, ask)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil && !r.refused(reply, func(b []byte) []byte { return b }):
			return reply, nil
		}
	}
}

// attempt asks one server, and remembers how that went.
func (f *Forwarder) attempt(ctx context.Context, d time.Duration, s *server, query []byte, ask exchange) ([]byte, error) {
	attempt, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	reply, err := ask(attempt, s.addr, query)
	switch {
	case err == nil:
		s.praise()
	case ctx.Err() == nil: // the caller's end is nobody's fault
		if attempt.Err() != nil {
			err = attempt.Err() // tells more than that the connection was closed
		}
		f.blame(s, err)
	}
	return reply, err
}

// blame notes that a server did not answer.
func (f *Forwarder) blame(s *server, err error) {
	if s.blame(time.Now()) {
		f.log.Debug("resolver does not answer", "server", s.addr, "err", err)
	}
}
