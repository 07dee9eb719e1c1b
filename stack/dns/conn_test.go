package dns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"taproot/test/settle"
)

func netipFrom(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// serve runs ServeConn on one end of a TCP connection and returns the other,
// and what ServeConn returned, once it has.
func serve(t *testing.T, ctx context.Context, f *Forwarder) (*net.TCPConn, <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	guest, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	result, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		result <- f.ServeConn(ctx, conn)
	}()
	t.Cleanup(func() { guest.Close(); <-ended })
	guest.SetDeadline(time.Now().Add(settle.Patience))
	return guest.(*net.TCPConn), result
}

func send(t *testing.T, w io.Writer, messages ...[]byte) {
	t.Helper()
	for _, m := range messages {
		if err := writeMessage(w, m); err != nil {
			t.Fatal(err)
		}
	}
}

// receive reads n messages and returns them by ID.
func receive(t *testing.T, r io.Reader, n int) map[uint16][]byte {
	t.Helper()
	replies := make(map[uint16][]byte)
	for range n {
		m, err := readMessage(r)
		if err != nil {
			t.Fatal(err)
		}
		replies[id(m)] = m
	}
	if len(replies) != n {
		t.Fatalf("replies with different IDs: got %v, want %v", len(replies), n)
	}
	return replies
}

func TestServeConnPipelines(t *testing.T) {
	checkLeaks(t)
	// The server answers the first query only after the second one came.
	second := make(chan struct{})
	server := upstream(func(q []byte) [][]byte {
		if q[len(q)-14] == 16 { // TXT; class and EDNS record are behind
			close(second)
		} else {
			<-second
		}
		return [][]byte{append(response(q, 0), make([]byte, 60000)...)}
	}).start(t)
	guest, result := serve(t, t.Context(), forwarder(t, 0, server))
	first := withID(ask(t, "example.com.", dnsmessage.TypeA), 1)
	send(t, guest, first, withID(ask(t, "example.com.", dnsmessage.TypeTXT), 2),
		withID(ask(t, "host.taproot.internal.", dnsmessage.TypeA), 3))
	if err := guest.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	replies := receive(t, guest, 3)
	if got, want := len(replies[1]), len(first)+60000; got != want {
		t.Errorf("size of reply: got %v, want %v", got, want)
	}
	if _, err := guest.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the last reply: got %v, want %v", err, io.EOF)
	}
	if err := <-result; err != nil {
		t.Errorf("ServeConn: got %v, want no error", err)
	}
}

func TestServeConnManyQueries(t *testing.T) {
	checkLeaks(t)
	guest, _ := serve(t, t.Context(), forwarder(t, 0, upstream(echo).start(t)))
	const n = 4 * maxPipelined
	query := ask(t, "example.com.", dnsmessage.TypeA)
	for i := range uint16(n) {
		send(t, guest, withID(query, i))
	}
	receive(t, guest, n)
}

func TestServeConnRetriesAndFails(t *testing.T) {
	checkLeaks(t)
	query := ask(t, "example.com.", dnsmessage.TypeA)
	for name, tt := range map[string]struct {
		servers []netip.AddrPort
		rcode   uint16
	}{
		"refused, silent, good": {[]netip.AddrPort{refusing(t), upstream(silent).start(t), upstream(echo).start(t)}, 0},
		"nobody":                {[]netip.AddrPort{refusing(t)}, rcodeServFail},
		"foreign reply": {[]netip.AddrPort{upstream(func(q []byte) [][]byte {
			return [][]byte{withID(response(q, 0), id(q)+1)}
		}).start(t)}, rcodeServFail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guest, _ := serve(t, t.Context(), forwarder(t, fair, tt.servers...))
			send(t, guest, query)
			reply := receive(t, guest, 1)[id(query)]
			if got := flags(reply) & maskRcode; got != tt.rcode {
				t.Errorf("rcode: got %v, want %v", got, tt.rcode)
			}
		})
	}
}

func TestServeConnZoneTransfer(t *testing.T) {
	checkLeaks(t)
	server := upstream(func(q []byte) [][]byte {
		first := response(q, 0)
		return [][]byte{first, slices.Concat(first, []byte{1}), slices.Concat(first, []byte{2})}
	}).start(t)
	guest, _ := serve(t, t.Context(), forwarder(t, 0, with(rcodeRefused).start(t), server))
	query := ask(t, "example.com.", typeAXFR)
	send(t, guest, query)
	for i := range 3 {
		m, err := readMessage(guest)
		if err != nil {
			t.Fatal(err)
		}
		if id(m) != id(query) || i > 0 && m[len(m)-1] != byte(i) {
			t.Errorf("message %d: got %x", i, m)
		}
	}
}

func TestServeConnEnds(t *testing.T) {
	query := ask(t, "example.com.", dnsmessage.TypeA)
	for name, tt := range map[string]struct {
		do   func(guest *net.TCPConn, cancel func())
		want error
	}{
		"guest closes":            {func(g *net.TCPConn, _ func()) { g.Close() }, nil},
		"guest closes in message": {func(g *net.TCPConn, _ func()) { g.Write([]byte{0, 9, 1}); g.Close() }, io.ErrUnexpectedEOF},
		"empty message":           {func(g *net.TCPConn, _ func()) { g.Write([]byte{0, 0}) }, ErrMalformed},
		"response":                {func(g *net.TCPConn, _ func()) { writeMessage(g, response(query, 0)) }, ErrMalformed},
		"context":                 {func(_ *net.TCPConn, cancel func()) { cancel() }, context.Canceled},
		"context in lookup":       {func(g *net.TCPConn, cancel func()) { writeMessage(g, query); cancel() }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			guest, result := serve(t, ctx, forwarder(t, time.Minute, upstream(silent).start(t)))
			tt.do(guest, cancel)
			if err := <-result; !errors.Is(err, tt.want) {
				t.Errorf("ServeConn: got %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzServeConn(f *testing.F) {
	query := ask(f, "example.com.", dnsmessage.TypeA)
	f.Add(append([]byte{0, byte(len(query))}, query...))
	f.Add([]byte{0, 0})
	f.Add([]byte{255, 255, 1})
	fw := forwarder(f, 0)
	f.Fuzz(func(t *testing.T, stream []byte) {
		guest, gateway := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			fw.ServeConn(t.Context(), gateway)
		}()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			io.Copy(io.Discard, guest)
		}()
		guest.Write(stream)
		guest.Close()
		<-ended
		<-drained
	})
}
