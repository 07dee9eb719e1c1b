package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Timeouts: short where no server answers, fair where one is waited for in vain
// and another has to answer in time, on a busy machine too.
const (
	short = 100 * time.Millisecond
	fair  = 4 * time.Second
)

// forwarder returns a forwarder that runs until the test ends.
func forwarder(t testing.TB, timeout time.Duration, servers ...netip.AddrPort) *Forwarder {
	t.Helper()
	f := newForwarder(t, Config{
		Hosts: map[string][]netip.Addr{
			"host.taproot.internal": {netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fd00::2")},
		},
		Timeout: timeout,
	})
	run(t, f)
	f.SetServers(servers)
	return f
}

func newForwarder(t testing.TB, c Config) *Forwarder {
	t.Helper()
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// run runs f until the test ends, or the result is called.
func run(t testing.TB, f *Forwarder) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// datagram asks f, and wants an answer with rcode.
func datagram(t testing.TB, f *Forwarder, query []byte, rcode uint16) []byte {
	t.Helper()
	answer := make(chan []byte, 1)
	if err := f.Datagram(query, func(reply []byte) { answer <- slices.Clone(reply) }); err != nil {
		t.Fatal(err)
	}
	reply := <-answer
	if got := flags(reply) & maskRcode; got != rcode {
		t.Fatalf("rcode: got %v, want %v", got, rcode)
	}
	if got, want := id(reply), id(query); got != want {
		t.Fatalf("ID: got %#x, want %#x", got, want)
	}
	return reply
}

func TestDatagramPassesUnchanged(t *testing.T) {
	checkLeaks(t)
	for name, query := range map[string][]byte{
		"A":     ask(t, "example.com.", dnsmessage.TypeA),
		"HTTPS": ask(t, "example.com.", 65),
		"type 65280 with an odd name": slices.Concat(
			[]byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, []byte("\x0aMy.Printer\x04_ipp\x00\xff\x00\x00\x01")),
		"no question": {1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"update":      slices.Concat([]byte{1, 2, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0}, []byte("\x01x\x00\x00\x06\x00\x01")),
		"root":        ask(t, ".", dnsmessage.TypeNS),
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan []byte, 1)
			want := response(query, 0)
			want[atFlags] |= 0x02 // TC
			want = append(want, bytes.Repeat([]byte{0xa5}, 4000)...)
			server := upstream(func(q []byte) [][]byte {
				seen <- q
				return [][]byte{withID(want, id(q))}
			}).start(t)
			got := datagram(t, forwarder(t, 0, server), query, 0)
			if !bytes.Equal(got, want) {
				t.Errorf("reply: got %x, want %x", got, want)
			}
			if got := <-seen; !bytes.Equal(got[2:], query[2:]) {
				t.Errorf("query at the server: got %x, want %x", got, query)
			}
		})
	}
}

func TestDatagramLargest(t *testing.T) {
	checkLeaks(t)
	query := ask(t, "example.com.", dnsmessage.TypeTXT)
	const size = 65507 // what UDP over IPv4 carries
	server := upstream(func(q []byte) [][]byte {
		reply := response(q, 0)
		return [][]byte{append(reply, make([]byte, size-len(reply))...)}
	}).start(t)
	if got := len(datagram(t, forwarder(t, 0, server), query, 0)); got != size {
		t.Errorf("size: got %v, want %v", got, size)
	}
}

func TestDatagramIDsAreOurs(t *testing.T) {
	const n = 50
	seen := make(chan uint16, n)
	server := upstream(func(q []byte) [][]byte {
		seen <- id(q)
		return echo(q)
	}).start(t)
	f := forwarder(t, 0, server)
	ids := make(map[uint16]bool)
	for range n {
		datagram(t, f, ask(t, "example.com.", dnsmessage.TypeA), 0)
		ids[<-seen] = true
	}
	if len(ids) < n-10 {
		t.Errorf("different IDs at the server: got %v of %v queries", len(ids), n)
	}
}

func TestDatagramIgnoresForeignReplies(t *testing.T) {
	checkLeaks(t)
	server := upstream(func(q []byte) [][]byte {
		wrong := func(change func(b []byte)) []byte {
			b := response(q, 0)
			change(b)
			return b
		}
		return [][]byte{
			{},
			q[:5],
			q,                                   // not a response
			wrong(func(b []byte) { b[0] ^= 1 }), // ID
			wrong(func(b []byte) { b[headerSize+1] ^= 1 }),         // name
			wrong(func(b []byte) { b[len(q)-14] ^= 1 }),            // type; class and EDNS record are behind
			wrong(func(b []byte) { b[atFlags] |= 0x10 }),           // opcode
			wrong(func(b []byte) { b[atQuestions+1] = 0 }),         // no question, though no error
			wrong(func(b []byte) { b[atQuestions+1] = 200 }),       // questions that are not there
			wrong(func(b []byte) { b[headerSize+1] -= 'a' - 'A' }), // case does not matter: this is the one
		}
	}).start(t)
	f := forwarder(t, 0, server)
	query := ask(t, "example.com.", dnsmessage.TypeA)
	reply := datagram(t, f, query, 0)
	if got, want := reply[headerSize+1], byte('E'); got != want {
		t.Errorf("name begins with: got %c, want %c", got, want)
	}
	if got, want := f.Stats().Mismatched, uint64(9); got != want {
		t.Errorf("Mismatched: got %v, want %v", got, want)
	}
}

func TestDatagramRetries(t *testing.T) {
	checkLeaks(t)
	const nxdomain = 3
	good, bad := upstream(echo), upstream(silent)
	for name, tt := range map[string]struct {
		timeout time.Duration
		servers []netip.AddrPort
		rcode   uint16
		failed  uint64 // queries answered with our own SERVFAIL
	}{
		"second after silence":     {fair, []netip.AddrPort{bad.start(t), good.start(t)}, 0, 0},
		"second after refused":     {fair, []netip.AddrPort{refusing(t), good.start(t)}, 0, 0},
		"third":                    {fair, []netip.AddrPort{refusing(t), bad.start(t), good.start(t)}, 0, 0},
		"second after SERVFAIL":    {fair, []netip.AddrPort{with(rcodeServFail).start(t), good.start(t)}, 0, 0},
		"second after REFUSED":     {fair, []netip.AddrPort{with(rcodeRefused).start(t), good.start(t)}, 0, 0},
		"NXDOMAIN is an answer":    {fair, []netip.AddrPort{with(nxdomain).start(t), good.start(t)}, nxdomain, 0},
		"all refuse: the first":    {fair, []netip.AddrPort{with(rcodeRefused).start(t), with(rcodeServFail).start(t)}, rcodeRefused, 0},
		"refuses, then silence":    {fair, []netip.AddrPort{with(rcodeNotImp).start(t), bad.start(t)}, rcodeNotImp, 0},
		"all silent":               {short, []netip.AddrPort{bad.start(t), bad.start(t), bad.start(t)}, rcodeServFail, 1},
		"nobody listens":           {fair, []netip.AddrPort{refusing(t), refusing(t)}, rcodeServFail, 1},
		"no servers":               {fair, nil, rcodeServFail, 1},
		"FORMERR without question": {fair, []netip.AddrPort{upstream(formatError).start(t)}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := forwarder(t, tt.timeout, tt.servers...)
			query := ask(t, "example.com.", dnsmessage.TypeA)
			reply := datagram(t, f, query, tt.rcode)
			if got := f.Stats().Failed; got != tt.failed {
				t.Errorf("Failed: got %v, want %v", got, tt.failed)
			}
			if tt.failed > 0 {
				m := parse(t, reply)
				if !m.Response || !m.RecursionDesired || len(m.Questions) != 1 || len(m.Additionals) != 0 {
					t.Errorf("our SERVFAIL: got %v", m.GoString())
				}
			}
		})
	}
}

// formatError answers as servers do that did not get as far as the question.
func formatError(q []byte) [][]byte {
	reply := response(q, 1)[:headerSize]
	clear(reply[atQuestions:])
	return [][]byte{reply}
}

func TestDatagramRemembersDeadServer(t *testing.T) {
	var asked atomic.Int32
	dead := upstream(func([]byte) [][]byte { asked.Add(1); return nil }).start(t)
	f := forwarder(t, fair, dead, upstream(echo).start(t))
	for range 5 {
		datagram(t, f, ask(t, "example.com.", dnsmessage.TypeA), 0)
	}
	if got := asked.Load(); got != 1 {
		t.Errorf("queries to the dead server: got %v, want 1", got)
	}
}

func TestSetServersAtRunTime(t *testing.T) {
	f := forwarder(t, 0)
	query := ask(t, "example.com.", dnsmessage.TypeA)
	datagram(t, f, query, rcodeServFail)
	f.SetServers([]netip.AddrPort{upstream(echo).start(t)})
	datagram(t, f, query, 0)
}

func TestDatagramBoundsInFlight(t *testing.T) {
	checkLeaks(t)
	f := newForwarder(t, Config{
		Hosts:   map[string][]netip.Addr{"host.taproot.internal": {netip.MustParseAddr("10.0.2.2")}},
		Timeout: time.Minute,
	})
	stop := run(t, f)
	f.SetServers([]netip.AddrPort{upstream(silent).start(t)})
	query := ask(t, "example.com.", dnsmessage.TypeA)
	unanswered := func([]byte) { t.Error("an answer from a silent server") }
	for i := range DefaultDatagrams {
		if err := f.Datagram(query, unanswered); err != nil {
			t.Fatalf("query %d: %v", i, err)
		}
	}
	if err := f.Datagram(query, unanswered); err != ErrBusy {
		t.Errorf("one more: got %v, want %v", err, ErrBusy)
	}
	datagram(t, f, ask(t, "host.taproot.internal.", dnsmessage.TypeA), 0)
	stop()
	if got := f.Stats(); got.Busy != 1 || got.Failed != 0 {
		t.Errorf("Stats: got %+v, want 1 busy and 0 failed", got)
	}
	for _, s := range *f.servers.Load() {
		if s.suspect(time.Now()) {
			t.Error("the server is blamed for the end")
		}
	}
	if err := f.Datagram(query, unanswered); err != ErrBusy {
		t.Errorf("after the end: got %v, want %v", err, ErrBusy)
	}
}

func TestDatagramDropsMalformed(t *testing.T) {
	f := forwarder(t, short, upstream(echo).start(t))
	query := ask(t, "example.com.", dnsmessage.TypeA)
	for name, b := range map[string][]byte{
		"empty":             {},
		"short":             query[:headerSize-1],
		"response":          response(query, 0),
		"no question there": query[:headerSize],
		"half a question":   query[:headerSize+15],
		"compressed name":   append(slices.Clone(query[:headerSize]), 0xc0, 0x0c, 0, 1, 0, 1),
	} {
		err := f.Datagram(b, func(reply []byte) { t.Errorf("%s: got answer %x, want none", name, reply) })
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, want %v", name, err, ErrMalformed)
		}
	}
	if got, want := f.Stats().Malformed, uint64(6); got != want {
		t.Errorf("Malformed: got %v, want %v", got, want)
	}
}

func TestDialIsUsed(t *testing.T) {
	var dialed []string
	f := newForwarder(t, Config{Dial: func(_ context.Context, network, address string) (net.Conn, error) {
		dialed = append(dialed, network+" "+address)
		return nil, errors.New("no route")
	}})
	run(t, f)
	f.SetServers([]netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:53"), netip.MustParseAddrPort("192.0.2.1:53")})
	datagram(t, f, ask(t, "example.com.", dnsmessage.TypeA), rcodeServFail)
	if want := []string{"udp [fe80::1%eth0]:53", "udp 192.0.2.1:53"}; !slices.Equal(dialed, want) {
		t.Errorf("dialed: got %v, want %v", dialed, want)
	}
}

func TestControlIsUsed(t *testing.T) {
	checkLeaks(t)
	server := upstream(echo).start(t)
	var seen []string
	f := newForwarder(t, Config{Control: func(network, address string, _ syscall.RawConn) error {
		seen = append(seen, network+" "+address)
		return nil
	}})
	run(t, f)
	f.SetServers([]netip.AddrPort{server})
	datagram(t, f, ask(t, "example.com.", dnsmessage.TypeA), 0)
	if want := []string{"udp4 " + server.String()}; !slices.Equal(seen, want) {
		t.Errorf("called for %v, want %v", seen, want)
	}
}

func FuzzDatagram(f *testing.F) {
	f.Add(ask(f, "example.com.", dnsmessage.TypeA))
	f.Add(ask(f, "host.taproot.internal.", dnsmessage.TypeAAAA))
	f.Add(ask(f, "HOST.taproot.internal.", dnsmessage.TypeTXT))
	f.Add([]byte{1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	fw := forwarder(f, 0)
	f.Fuzz(func(t *testing.T, query []byte) {
		answers := 0
		err := fw.Datagram(query, func(reply []byte) {
			answers++
			if !isReply(query, reply) {
				t.Errorf("reply to %x: got %x, which is none", query, reply)
			}
		})
		want := 1 // there are no servers, so that it comes at once
		if errors.Is(err, ErrMalformed) {
			want = 0
		} else if err != nil {
			t.Errorf("error: got %v, want %v", err, ErrMalformed)
		}
		if answers != want {
			t.Errorf("answers: got %v, want %v", answers, want)
		}
	})
}

func FuzzIsReply(f *testing.F) {
	query := ask(f, "example.com.", dnsmessage.TypeA)
	f.Add(query, response(query, 0))
	f.Add(query, formatError(query)[0])
	f.Fuzz(func(t *testing.T, query, reply []byte) {
		if !isQuery(query) {
			return
		}
		isTransfer(query)
		if isReply(query, reply) {
			isRefusal(reply)
			if binary.BigEndian.Uint16(reply) != binary.BigEndian.Uint16(query) {
				t.Errorf("isReply(%x, %x): got true, want false: other ID", query, reply)
			}
		}
	})
}

func BenchmarkDatagram(b *testing.B) {
	f := forwarder(b, 0, upstream(echo).start(b))
	query := ask(b, "example.com.", dnsmessage.TypeA)
	b.ReportAllocs()
	for b.Loop() {
		datagram(b, f, query, 0)
	}
}
