package e2e

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/stack/policy/policytest"
	"taproot/test/lab"
)

// TestPolicyTable sends each destination of the policy's table as raw frames, in
// all kinds, and looks at what comes back to the guest and what leaves the host.
func TestPolicyTable(t *testing.T) {
	t.Parallel()
	wantLabOfTable(t)
	l := newLab(t)
	listenEverywhere(t, l)
	s := newShell(t, l)
	wire := newSniffer(t, l.Host)
	var cases []rawCase
	var rows []policytest.Destination
	for _, d := range policytest.Destinations() {
		for _, k := range rawKinds() {
			c := newRawCase(k, d.Address)
			c.answered = c.wants(d) != "nothing"
			cases, rows = append(cases, c), append(rows, d)
		}
	}
	for i, got := range sendRaw(t, l, s, cases) {
		if want := cases[i].wants(rows[i]); rows[i].Seen != policytest.Open && got != want {
			t.Errorf("%s %s (%s): got %s, want %s", cases[i].kind.name, rows[i].Address, rows[i].Is, got, want)
		}
	}
	allowed := make(map[string]bool)
	for i, c := range cases {
		if rows[i].Seen == policytest.Open {
			allowed[c.leaving(i)] = true
		}
	}
	wantLeft(t, l, wire, allowed)
}

// TestPolicySources does the same for what the guest writes as source.
func TestPolicySources(t *testing.T) {
	t.Parallel()
	wantLabOfTable(t)
	l := newLab(t)
	w := newWeb(t, l)
	wire := newSniffer(t, l.Host)
	var cases []rawCase
	var spoofed uint64
	allowed := make(map[string]bool)
	for _, row := range policytest.Sources() {
		source := netip.MustParseAddr(row.Address)
		target := lab.Outside4
		if source.Is6() {
			target = lab.Outside6
		}
		for _, k := range rawKinds() {
			if k.proto == unix.IPPROTO_TCP {
				continue // which does not keep its number, by which it would be known
			}
			c := newRawCase(k, target)
			c.source = source
			cases = append(cases, c)
			if row.Allowed {
				allowed[c.leaving(len(cases)-1)] = true
			} else if !source.IsUnspecified() {
				spoofed++ // at least: two frames are sent for fragments
			}
		}
	}
	sendRaw(t, l, w.shell, cases)
	wantLeft(t, l, wire, allowed)
	l.Eventually(fmt.Sprintf("frames_spoofed: %d at least", spoofed), func() bool {
		stats, _ := w.ask("GET", "/v1/stats", "")
		counters, _ := stats["counters"].(map[string]any)
		got, _ := counters["frames_spoofed"].(float64)
		return uint64(got) >= spoofed
	})
}

// wantLabOfTable skips where the laboratory is not the one that the table is
// about.
func wantLabOfTable(t *testing.T) {
	t.Helper()
	lab.Need(t, lab.IPv6)
	if policytest.Host4 != lab.Host4 || policytest.Host6 != lab.Host6 || policytest.Guest4 != guest4 || policytest.Guest6 != guest6 {
		t.Fatal("the table is about other addresses than the laboratory has")
	}
}

// listenEverywhere makes the host answer on all of its addresses, so that what
// gets through by mistake is connected.
func listenEverywhere(t *testing.T, l *lab.Lab) {
	t.Helper()
	go collect(l.Host.ListenPacket("udp", fmt.Sprintf(":%d", rawPort)), make(chan string, 1000))
	l.Host.Listen("tcp", fmt.Sprintf(":%d", rawPort))
}

// newRawCase returns a case from the guest's own address.
func newRawCase(k rawKind, destination string) rawCase {
	c := rawCase{kind: k, source: netip.MustParseAddr(guest4), destination: netip.MustParseAddr(destination)}
	if c.destination.Is6() {
		c.source = netip.MustParseAddr(guest6)
	}
	return c
}

// wants returns what the guest is to notice of a case.
func (c rawCase) wants(d policytest.Destination) string {
	isEcho := c.kind.proto == unix.IPPROTO_ICMP
	switch {
	case isEcho && (d.Seen == policytest.OwnEcho || d.Seen == policytest.SilentEcho):
		return "answered"
	case d.Seen == policytest.Prohibited || d.Seen == policytest.OwnEcho:
		return "prohibited"
	}
	return "nothing"
}

// String is how a case is written on the command line.
func (c rawCase) String() string {
	word := fmt.Sprintf("%s/%v/%v", strings.ReplaceAll(c.kind.name, " ", "_"), c.source, c.destination)
	if c.answered {
		word += "/answered"
	}
	return word
}

// parseRawCases is the reverse of rawCase.String.
func parseRawCases(words []string) ([]rawCase, error) {
	var cases []rawCase
	for _, word := range words {
		parts := strings.Split(strings.ReplaceAll(word, "_", " "), "/")
		if len(parts) < 3 {
			return nil, fmt.Errorf("case %q", word)
		}
		c := rawCase{source: netip.MustParseAddr(parts[1]), destination: netip.MustParseAddr(parts[2]), answered: len(parts) > 3}
		for _, k := range rawKinds() {
			if k.name == parts[0] {
				c.kind = k
			}
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// sendRaw has cases sent from the guest, and returns what came back for each.
func sendRaw(t *testing.T, l *lab.Lab, s *shell, cases []rawCase) []string {
	t.Helper()
	args := []string{fmt.Sprint(int(lab.Patience / time.Second))}
	for _, c := range cases {
		args = append(args, c.String())
	}
	lines := strings.Split(strings.TrimSpace(s.must(program(l, "raw", args...))), "\n")
	if len(lines) != len(cases) {
		t.Fatalf("got %d answers, want %d", len(lines), len(cases))
	}
	return lines
}

// leaving names what is seen on the host if the i-th case is forwarded. UDP and
// echo keep their number.
func (c rawCase) leaving(i int) string { return leaving(c.kind.proto, c.destination, firstNumber+i) }

func leaving(proto uint8, destination netip.Addr, number int) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp " + destination.String()
	case unix.IPPROTO_UDP:
		return fmt.Sprintf("udp %v %d", destination, number)
	}
	return fmt.Sprintf("echo %v %d", destination, number)
}

// wantLeft waits until everything that is allowed has left, and fails the test for
// what else has.
func wantLeft(t *testing.T, l *lab.Lab, wire *sniffer, allowed map[string]bool) {
	t.Helper()
	l.Eventually("what is allowed has left the host", func() bool {
		seen := wire.names()
		for name := range allowed {
			if !seen[name] {
				return false
			}
		}
		return true
	})
	for name := range wire.names() {
		if !allowed[name] {
			t.Errorf("left the host: %s", name)
		}
	}
}

// A sniffer sees what is sent in a namespace, on all of its interfaces: to
// rawPort, and echo requests.
type sniffer struct {
	t    *testing.T
	file *os.File
	done chan struct{} // closed when the one goroutine, which reads, has returned

	mu sync.Mutex
	// +checklocks:mu
	seen map[string]bool // by what leaving says
}

// newSniffer starts a sniffer, which ends with the test.
func newSniffer(t *testing.T, n *lab.Namespace) *sniffer {
	t.Helper()
	s := &sniffer{t: t, done: make(chan struct{}), seen: make(map[string]bool)}
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_ALL)))
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // or as much as there may be
		s.file = os.NewFile(uintptr(fd), "sniffer")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		raw.Read(s.read) // until the file is closed
	}()
	t.Cleanup(func() { s.file.Close(); <-s.done })
	return s
}

// read takes what has been sent until now, and tells whether there will be no more.
func (s *sniffer) read(fd uintptr) (over bool) {
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(int(fd), b, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			return false
		}
		if err != nil {
			s.t.Errorf("sniffer: %v", err)
			return true
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			s.note(b[:n])
		}
	}
}

// names returns what was seen until now, and fails the test if something may not
// have been.
func (s *sniffer) names() map[string]bool {
	s.t.Helper()
	raw, err := s.file.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		lost, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil || lost.Drops > 0 {
			s.t.Errorf("sniffer: %+v lost, error %v", lost, err)
		}
	}); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.seen)
}

// note notes a packet that is one of ours.
func (s *sniffer) note(b []byte) {
	proto, rest, ok := payloadOf(b)
	if !ok || len(rest) < 8 {
		return
	}
	number := binary.BigEndian.Uint16(rest)
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		if binary.BigEndian.Uint16(rest[2:]) != rawPort {
			return
		}
	case unix.IPPROTO_ICMP, icmpv6:
		const request, request6 = 8, 128
		if rest[0] != request && rest[0] != request6 {
			return
		}
		number = binary.BigEndian.Uint16(rest[4:])
	default:
		return
	}
	at := b[24:40]
	if b[0]>>4 == 4 {
		at = b[16:20]
	}
	destination, _ := netip.AddrFromSlice(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[leaving(proto, destination, int(number))] = true
}
