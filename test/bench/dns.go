package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// The server of the outside, which the host's resolv.conf names, and the
// address at which guests of slirp4netns and taproot find their resolver (and
// those of pasta, when told).
const (
	dnsPort       = "53"
	guestResolver = "10.0.2.3"
)

// dnsClients is how many programs of the guest ask at the same time.
const dnsClients = 32

// dnsRows returns the rows of names.
func dnsRows() []Row {
	return []Row{
		{Key: "dns-queries", Title: "DNS queries, 32 clients, new socket each", Unit: "k/s"},
		{Key: "dns-lost", Title: "DNS queries lost", Unit: "%", Lower: true},
	}
}

// queries measures queries through the helper's resolver, for names that nobody
// has asked for before.
func queries() measurement {
	return measurement{keys: []string{"dns-queries", "dns-lost"}, make: func(ctx context.Context, t *turn) error {
		args := QueryArgs{Resolver: t.resolver(), Clients: dnsClients, Duration: t.pace.request}
		var reply Queries
		if err := t.guest.call(ctx, "Query", args, &reply); err != nil {
			return err
		}
		t.record("dns-queries", float64(reply.Done)/args.Duration.Seconds()/1000)
		t.record("dns-lost", 100*float64(reply.Lost)/float64(max(1, reply.Done+reply.Lost)))
		if reply.First != "" {
			t.results.note("%s, dns-queries: %d of %d lost, one with: %s", t.contestant, reply.Lost, reply.Done+reply.Lost, reply.First)
		}
		return nil
	}}
}

// resolver is where the guest sends its queries.
func (t *turn) resolver() string {
	if !t.helper.hasProcesses() {
		return t.servers.DNS
	}
	return net.JoinHostPort(guestResolver, dnsPort)
}

// QueryArgs describes programs that ask for one name after the other.
type QueryArgs struct {
	Resolver string
	Clients  int
	Duration time.Duration
}

// Queries is what they got.
type Queries struct {
	Done  int    // answered in time
	Lost  int    // not
	First string // one of the failures, for the notes
}

// Query runs the clients for the duration.
func (a *Agent) Query(args QueryArgs, reply *Queries) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex // guards reply
		names atomic.Int64
		end   = time.Now().Add(args.Duration)
	)
	for range args.Clients {
		group.Go(func() {
			var part Queries
			for time.Now().Before(end) {
				err := queryOnce(args.Resolver, names.Add(1))
				switch {
				case err != nil:
					part.Lost++
					part.First = err.Error()
				case time.Now().Before(end):
					part.Done++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			*reply = Queries{Done: reply.Done + part.Done, Lost: reply.Lost + part.Lost, First: reply.First}
			if reply.First == "" {
				reply.First = part.First
			}
		})
	}
	group.Wait()
	return nil
}

// queryOnce asks for a name, by its number, from a new socket.
func queryOnce(resolver string, number int64) error {
	conn, err := net.Dial("udp", resolver)
	if err != nil {
		return err
	}
	defer conn.Close()
	id := uint16(number)
	query, err := question(id, number)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(query); err != nil {
		return err
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	return checkAnswer(answer[:n], id)
}

// question is a query for an address of a name.
func question(id uint16, number int64) ([]byte, error) {
	name, err := dnsmessage.NewName("n" + strconv.FormatInt(number, 10) + ".example.test.")
	if err != nil {
		return nil, err
	}
	builder := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	if err := builder.StartQuestions(); err != nil {
		return nil, err
	}
	q := dnsmessage.Question{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	if err := builder.Question(q); err != nil {
		return nil, err
	}
	return builder.Finish()
}

// checkAnswer wants an answer without an error.
func checkAnswer(message []byte, id uint16) error {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	switch {
	case err != nil:
		return err
	case !header.Response || header.ID != id:
		return errors.New("not the answer to the query")
	case header.RCode != dnsmessage.RCodeSuccess:
		return errors.New(header.RCode.String())
	}
	return nil
}

// serveDNS answers every query with one address until conn is closed.
func serveDNS(conn *net.UDPConn) {
	query, buffer := make([]byte, 1232), make([]byte, 0, 1232)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(query)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		if message, err := answer(buffer, query[:n]); err == nil {
			_, _ = conn.WriteToUDPAddrPort(message, from)
		}
	}
}

// answer appends the answer to a query to buffer.
func answer(buffer, query []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := parser.Question()
	if err != nil {
		return nil, err
	}
	builder := dnsmessage.NewBuilder(buffer, dnsmessage.Header{ID: header.ID, Response: true, RecursionAvailable: true})
	if err := errors.Join(builder.StartQuestions(), builder.Question(q), builder.StartAnswers()); err != nil {
		return nil, err
	}
	address := dnsmessage.AResource{A: netip.MustParsePrefix(cableOutside).Addr().As4()}
	resource := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}
	if err := builder.AResource(resource, address); err != nil {
		return nil, err
	}
	return builder.Finish()
}
