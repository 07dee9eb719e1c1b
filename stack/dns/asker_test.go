package dns

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"taproot/test/settle"
)

// ports serves echo over UDP and returns the address, and the ports that
// questions came from, one for each question.
func ports(t *testing.T) (netip.AddrPort, func() []uint16) {
	t.Helper()
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []uint16
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxMessage)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			mu.Lock()
			seen = append(seen, from.Port())
			mu.Unlock()
			for _, reply := range echo(buf[:n]) {
				pc.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort(), func() []uint16 {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// TestSocketsWearOut wants a port for few questions only, however fast they come.
func TestSocketsWearOut(t *testing.T) {
	checkLeaks(t)
	server, seen := ports(t)
	f := forwarder(t, 0, server)
	const n = 10 * socketUses
	query := ask(t, "example.com.", dnsmessage.TypeA)
	for range n {
		datagram(t, f, query, 0)
	}
	uses := make(map[uint16]int)
	for _, p := range seen() {
		uses[p]++
	}
	for p, n := range uses {
		if n > socketUses {
			t.Errorf("questions from port %d: got %v, want at most %v", p, n, socketUses)
		}
	}
	if got, want := len(uses), n/socketUses; got < want {
		t.Errorf("ports: got %v, want at least %v", got, want)
	}
}

// TestSocketsAge wants sockets without questions gone, and new ports after.
func TestSocketsAge(t *testing.T) {
	server, seen := ports(t)
	f := forwarder(t, 0, server)
	query := ask(t, "example.com.", dnsmessage.TypeA)
	before := openDescriptors(t)
	datagram(t, f, query, 0)
	settle.Until(t, "the socket is closed", func() bool { return openDescriptors(t) <= before })
	datagram(t, f, query, 0)
	if got := seen(); len(got) != 2 || got[0] == got[1] {
		t.Errorf("ports of two questions far apart: got %v, want two", got)
	}
}

// TestAnswersOfOneSocket asks many questions at once, which share sockets, and
// wants each answered with its own answer.
func TestAnswersOfOneSocket(t *testing.T) {
	checkLeaks(t)
	f := forwarder(t, 0, upstream(echo).start(t))
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			name := string(rune('a'+i)) + ".example.com."
			for range 50 {
				reply := datagram(t, f, ask(t, name, dnsmessage.TypeA), 0)
				if got := parse(t, reply).Questions[0].Name.String(); got != name {
					t.Errorf("answer to %s: got %s", name, got)
				}
			}
		})
	}
	running.Wait()
	if got := f.Stats().Mismatched; got != 0 {
		t.Errorf("Mismatched: got %v, want 0", got)
	}
}

// TestNobodyListens wants all questions at a server that is not there to go on
// at once, and those of another server not to be disturbed.
func TestNobodyListens(t *testing.T) {
	checkLeaks(t)
	var asked atomic.Int32
	good := upstream(func(q []byte) [][]byte { asked.Add(1); return echo(q) }).start(t)
	f := forwarder(t, time.Minute, refusing(t), good)
	query := ask(t, "example.com.", dnsmessage.TypeA)
	const n = 20
	answers := make(chan uint16, n)
	for range n {
		if err := f.Datagram(query, func(reply []byte) { answers <- flags(reply) & maskRcode }); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if got := <-answers; got != 0 {
			t.Errorf("rcode: got %v, want 0", got)
		}
	}
	if got := asked.Load(); got != n {
		t.Errorf("questions at the server that answers: got %v, want %v", got, n)
	}
}

// TestTooLong asks what no datagram can hold, and wants the questions that are
// open on the same sockets not to be disturbed.
func TestTooLong(t *testing.T) {
	checkLeaks(t)
	release := make(chan struct{})
	f := forwarder(t, time.Minute, upstream(func(q []byte) [][]byte { <-release; return echo(q) }).start(t))
	query := ask(t, "example.com.", dnsmessage.TypeA)
	const n = 16
	answers := make(chan uint16, n)
	for range n {
		if err := f.Datagram(query, func(reply []byte) { answers <- flags(reply) & maskRcode }); err != nil {
			t.Fatal(err)
		}
	}
	long := append(query, make([]byte, 65508-len(query))...)
	for range n {
		datagram(t, f, long, rcodeServFail)
	}
	close(release)
	for range n {
		if got := <-answers; got != 0 {
			t.Errorf("rcode: got %v, want 0", got)
		}
	}
}
