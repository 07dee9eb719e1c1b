package dns

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"taproot/internal/socket"
)

// holding returns a running forwarder that holds questions back.
func holding(t testing.TB, servers ...netip.AddrPort) *Forwarder {
	t.Helper()
	f := newForwarder(t, Config{HoldBack: true, Timeout: time.Minute})
	run(t, f)
	f.SetServers(servers)
	return f
}

// held asks n questions, each by a name and an ID of its own, and returns a
// function that waits for the answers, each of which must be its question's.
func held(t *testing.T, f *Forwarder, n int, rcode uint16) (wait func()) {
	t.Helper()
	answers := make([]chan []byte, n)
	queries := make([][]byte, n)
	for i := range n {
		answers[i] = make(chan []byte, 1)
		queries[i] = withID(ask(t, string(rune('a'+i%26))+".example.com.", dnsmessage.TypeA), uint16(i))
		err := f.Datagram(queries[i], func(reply []byte) { answers[i] <- withID(reply, id(reply)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for i, answer := range answers {
			reply := <-answer
			if got := flags(reply) & maskRcode; got != rcode || !isReply(queries[i], reply) {
				t.Errorf("answer %d: got rcode %v and %x, want %v to %x", i, got, reply, rcode, queries[i])
			}
		}
	}
}

// TestHoldBack wants questions that are held back to leave with Flush and not
// before, from one port.
func TestHoldBack(t *testing.T) {
	checkLeaks(t)
	server, seen := ports(t)
	f := holding(t, server)
	f.Flush() // nothing
	const n = 10
	wait := held(t, f, n, 0)
	if got := seen(); len(got) != 0 {
		t.Errorf("before Flush: got %d questions, want none", len(got))
	}
	f.Flush()
	wait()
	got := seen()
	for _, p := range got {
		if p != got[0] {
			t.Errorf("ports: got %v, want one", got)
			break
		}
	}
}

// TestHoldBackMany holds more than one call carries, and than a socket takes.
func TestHoldBackMany(t *testing.T) {
	checkLeaks(t)
	server, seen := ports(t)
	f := holding(t, server)
	const n = 5*socketUses + 7
	for left := n; left > 0; {
		part := min(left, 3*socket.OutboxLen+1) // the server's buffer has room for so many
		wait := held(t, f, part, 0)
		f.Flush()
		wait()
		left -= part
	}
	uses := make(map[uint16]int)
	for _, p := range seen() {
		if uses[p]++; uses[p] > socketUses {
			t.Fatalf("questions from port %d: got more than %v", p, socketUses)
		}
	}
}

// TestHoldBackGoesOn wants questions that were held for a server that nobody
// listens at to be asked at the next one.
func TestHoldBackGoesOn(t *testing.T) {
	checkLeaks(t)
	f := holding(t, refusing(t), upstream(echo).start(t))
	for range 5 { // the refusal may meet them in the outbox, or on their way
		wait := held(t, f, 40, 0)
		f.Flush()
		wait()
		f.SetServers([]netip.AddrPort{refusing(t), upstream(echo).start(t)})
	}
}

// TestHoldBackTooLong asks what no datagram can hold among others.
func TestHoldBackTooLong(t *testing.T) {
	checkLeaks(t)
	f := holding(t, upstream(echo).start(t))
	wait := held(t, f, 3, 0)
	query := ask(t, "example.com.", dnsmessage.TypeA)
	datagram(t, f, append(query, make([]byte, 65508-len(query))...), rcodeServFail)
	f.Flush()
	wait()
}
