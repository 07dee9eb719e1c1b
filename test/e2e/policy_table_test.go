package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
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
	stats, _ := w.ask("GET", "/v1/stats", "")
	counters, _ := stats["counters"].(map[string]any)
	if got, _ := counters["frames_spoofed"].(float64); uint64(got) < spoofed {
		t.Errorf("frames_spoofed: got %v, want %d at least", got, spoofed)
	}
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
		wire.read()
		for name := range allowed {
			if !wire.seen[name] {
				return false
			}
		}
		return true
	})
	for name := range wire.seen {
		if !allowed[name] {
			t.Errorf("left the host: %s", name)
		}
	}
}

// A sniffer sees what is sent in a namespace, on all of its interfaces: to
// rawPort, and echo requests.
type sniffer struct {
	t    *testing.T
	fd   int
	seen map[string]bool // by what leaving says
}

func newSniffer(t *testing.T, n *lab.Namespace) *sniffer {
	t.Helper()
	s := &sniffer{t: t, seen: make(map[string]bool)}
	err := n.Do(func() (err error) {
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(networkOrder(unix.ETH_P_ALL)))
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// read takes what has been sent until now.
func (s *sniffer) read() {
	s.t.Helper()
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(s.fd, b, 0)
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			s.note(b[:n])
		}
	}
	lost, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil || lost.Drops > 0 {
		s.t.Fatalf("sniffer: %+v lost, error %v", lost, err)
	}
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
	s.seen[leaving(proto, destination, int(number))] = true
}
