package dns

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"taproot/test/settle"
)

// An upstream is a fake server: it gets a query and returns the messages to
// answer with, none to stay silent.
type upstream func(query []byte) [][]byte

// start serves u over UDP and TCP on one port of 127.0.0.1 until the test ends.
func (u upstream) start(t testing.TB) netip.AddrPort {
	t.Helper()
	pc, l := listenBoth(t)
	var running sync.WaitGroup
	running.Go(func() { u.serveUDP(pc) })
	running.Go(func() {
		var conns sync.WaitGroup
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			conns.Go(func() { defer c.Close(); u.serveTCP(c) })
		}
		conns.Wait()
	})
	t.Cleanup(func() {
		pc.Close()
		l.Close()
		running.Wait()
	})
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

func (u upstream) serveUDP(pc *net.UDPConn) {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		for _, reply := range u(slices.Clone(buf[:n])) {
			pc.WriteToUDPAddrPort(reply, from)
		}
	}
}

func (u upstream) serveTCP(c net.Conn) {
	for {
		query, err := readMessage(c)
		if err != nil {
			return
		}
		for _, reply := range u(query) {
			if writeMessage(c, reply) != nil {
				return
			}
		}
	}
}

// listenBoth finds a port that is free for UDP and TCP.
func listenBoth(t testing.TB) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	for range 20 {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			return pc, l
		}
		l.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// refusing returns an address of 127.0.0.1 where nobody listens. Until the test
// ends it belongs to a socket that is connected to somebody else, so that no
// fake server gets it.
func refusing(t testing.TB) netip.AddrPort {
	t.Helper()
	loopback := net.IPv4(127, 0, 0, 1)
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: loopback}, &net.UDPAddr{IP: loopback, Port: 9})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// echo answers every query with itself, marked as a response.
func echo(query []byte) [][]byte { return [][]byte{response(query, 0)} }

// silent answers nothing.
func silent([]byte) [][]byte { return nil }

// with answers with rcode.
func with(rcode uint16) upstream {
	return func(query []byte) [][]byte { return [][]byte{response(query, rcode)} }
}

// response turns a query into its response.
func response(query []byte, rcode uint16) []byte {
	b := slices.Clone(query)
	binary.BigEndian.PutUint16(b[atFlags:], flags(b)|flagResponse|rcode)
	return b
}

// ask builds a query, with EDNS.
func ask(t testing.TB, name string, qtype dnsmessage.Type) []byte {
	t.Helper()
	var opt dnsmessage.ResourceHeader
	if err := opt.SetEDNS0(4096, 0, true); err != nil {
		t.Fatal(err)
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{
			{Name: dnsmessage.MustNewName(name), Type: qtype, Class: dnsmessage.ClassINET},
		},
		Additionals: []dnsmessage.Resource{{Header: opt, Body: &dnsmessage.OPTResource{}}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, b []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("unpack %x: %v", b, err)
	}
	return m
}

// checkLeaks fails the test if, after its other clean-ups, there are more
// goroutines or descriptors than now. Call it first.
func checkLeaks(t testing.TB) {
	t.Helper()
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	t.Cleanup(func() {
		deadline := time.Now().Add(settle.Patience)
		for runtime.NumGoroutine() > goroutines || openDescriptors(t) > descriptors {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("goroutines: got %d, want %d; descriptors: got %d, want %d\n%s", runtime.NumGoroutine(), goroutines,
					openDescriptors(t), descriptors, stacks[:runtime.Stack(stacks, true)])
			}
			runtime.Gosched()
		}
	})
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return len(names)
}

func TestInOrder(t *testing.T) {
	now := time.Unix(1000, 0)
	a, b, c := new(server), new(server), new(server)
	order := func(at time.Time) string {
		var s string
		for _, x := range inOrder([]*server{a, b, c}, at) {
			s += map[*server]string{a: "a", b: "b", c: "c"}[x]
		}
		return s
	}
	for _, step := range []struct {
		do   func()
		at   time.Time
		want string
	}{
		{func() {}, now, "abc"},
		{func() { a.blame(now) }, now, "bca"},
		{func() { b.blame(now) }, now.Add(time.Second), "cab"},
		{func() {}, now.Add(penalty), "abc"},
		{func() { a.praise() }, now.Add(time.Second), "acb"},
	} {
		step.do()
		if got := order(step.at); got != step.want {
			t.Errorf("order: got %v, want %v", got, step.want)
		}
	}
	if a.blame(now) != true || a.blame(now) != false {
		t.Error("blame: want news the first time only")
	}
}

// TestBlameOutlivesClock wants a server that failed to be forgiven after its penalty
// even when the machine's clock is set back meanwhile: the time must have kept the
// monotonic reading, which package time shows as "m=".
func TestBlameOutlivesClock(t *testing.T) {
	var s server
	if !s.blame(time.Now()) || s.blame(time.Now()) {
		t.Error("blame: want news once")
	}
	if at := s.failed.Load().String(); !strings.Contains(at, " m=") {
		t.Errorf("failed at %s, without the monotonic clock", at)
	}
	if now := time.Now(); !s.suspect(now) || s.suspect(now.Add(penalty)) {
		t.Error("suspect: want it for the penalty and no longer")
	}
	s.praise()
	if s.suspect(time.Now()) {
		t.Error("suspect after an answer")
	}
}
