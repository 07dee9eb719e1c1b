package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// floodVariable is the environment variable that says how long each flood lasts where
// they are measured, as in 2s.
const floodVariable = "TAPROOT_FLOOD"

// floodTime is how long each flood lasts: as floodVariable says, or as short as shows
// that something gives way.
func floodTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(floodVariable)
	if text == "" {
		return 200 * time.Millisecond
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A flood is what a hostile guest sends as fast as it can.
type flood struct {
	name  string
	limit string // that shows it, refused by then; "" if none is met in short
	frame func(l *rawLink, b []byte, n uint32) (etherType uint16, packet []byte)
}

// floods are all of raw frames. Numbers count frames.
func floods() []flood {
	return []flood{
		{"syn", "", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) { // to somebody who never answers
			return unix.ETH_P_IP, rawTo(unix.IPPROTO_TCP, lab.Silent4, uint16(1024+n%60000), 0)
		}},
		{"syn to many", "", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
			return unix.ETH_P_IP, rawTo(unix.IPPROTO_TCP, many(n), uint16(1024+n%60000), 0)
		}},
		{"syn marked", "", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
			return unix.ETH_P_IP, rawTo(unix.IPPROTO_TCP, lab.Silent4, uint16(1024+n%60000), 0b110011)
		}},
		{"udp to many", "", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
			return unix.ETH_P_IP, rawTo(unix.IPPROTO_UDP, many(n), uint16(1024+n%60000), 0)
		}},
		{"echo", "flows_icmp", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
			return unix.ETH_P_IP, rawTo(unix.IPPROTO_ICMP, lab.Silent4, uint16(n), 0)
		}},
		{"denied", "icmp_errors", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
			return unix.ETH_P_IP, rawTo(unix.IPPROTO_UDP, lab.Host4, uint16(n), 0)
		}},
		{"dns", "", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
			return unix.ETH_P_IP, dnsFrame(n)
		}},
		{"fragments", "fragments", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) { // the first ones only
			f := &fragment{id: uint16(n), offset: uint16(n>>16) * 1400, more: true}
			return unix.ETH_P_IP, ipPacket(netip.MustParseAddr(guest4), netip.MustParseAddr(lab.Outside4), unix.IPPROTO_UDP, 0, f, make([]byte, 1400))
		}},
		{"fragments ipv6", "fragments", func(_ *rawLink, _ []byte, n uint32) (uint16, []byte) {
			f := &fragment{id: uint16(n), offset: uint16(n>>16) * 1400, more: true}
			return unix.ETH_P_IPV6, ipPacket(netip.MustParseAddr(guest6), netip.MustParseAddr(lab.Outside6), unix.IPPROTO_UDP, 0, f, make([]byte, 1400))
		}},
		{"arp", "neighbour_requests", arpFrame},
		{"neighbours", "neighbour_requests", neighbourFrame},
		{"dhcp", "", dhcpFrame},
		{"rubbish", "", func(_ *rawLink, b []byte, n uint32) (uint16, []byte) {
			io.ReadFull(body(int64(len(b))), b)
			binary.BigEndian.PutUint32(b[4+n%1000:], n)
			return [...]uint16{unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP, uint16(n)}[n%4], b[:60+n%1400]
		}},
	}
}

// pingPongProgram ADDRESS exchanges numbers on one connection until its standard
// input ends, and prints their count after each line of it.
func pingPongProgram(args []string) int {
	conn, err := connect("tcp", args[0])
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		b := make([]byte, 1)
		for {
			if _, err := os.Stdin.Read(b); err != nil {
				return
			}
			asked <- struct{}{}
		}
	}()
	for n := uint32(0); ; n++ {
		if err := exchange(conn, n); err != nil {
			return quit(err)
		}
		select {
		case _, ok := <-asked:
			if !ok {
				return 0
			}
			fmt.Println(n)
		default:
		}
	}
}

// engineMemory is what the one engine of the laboratory has in memory, in bytes:
// VmRSS now, or VmHWM at most until now (proc(5)).
func engineMemory(t *testing.T, l *lab.Lab, field string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process(t, l, "taproot-engine").PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), field+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("no %s in %q", field, text)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

// engineTime is the time of a processor that the one engine of the laboratory has
// used (proc_pid_stat(5), in ticks of 10 ms).
func engineTime(t *testing.T, l *lab.Lab) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process(t, l, "taproot-engine").PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var user, system int
	const behind = 14 - 3 // utime is field 14, rest begins with 3
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(fields[behind]+" "+fields[behind+1], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// A speaker is a program in the guest that answers line by line.
type speaker struct {
	*lab.Cmd
	t     *testing.T
	in    io.WriteCloser
	lines chan string
}

// speak starts a program in the guest's namespace.
func speak(t *testing.T, n *lab.Namespace, name string, args ...string) *speaker {
	t.Helper()
	s := &speaker{Cmd: n.Program(name, args...), t: t, lines: make(chan string, 100)}
	guestIn, in := pipe(t)
	out, guestOut := pipe(t)
	s.Stdin, s.Stdout, s.in = guestIn, guestOut, in
	s.MustStart()
	guestIn.Close()
	guestOut.Close()
	go func() {
		defer close(s.lines)
		var line string
		for {
			if _, err := fmt.Fscanln(out, &line); err != nil {
				return
			}
			s.lines <- line
		}
	}()
	return s
}

// line returns the next line.
func (s *speaker) line() string {
	s.t.Helper()
	select {
	case line, ok := <-s.lines:
		if !ok {
			s.t.Fatalf("the program has ended: %s", s.Err())
		}
		return line
	case <-time.After(lab.Patience):
		s.t.Fatal("the program says nothing")
	}
	return ""
}

// number asks for a number.
func (s *speaker) number() int {
	s.t.Helper()
	if _, err := s.in.Write([]byte("\n")); err != nil {
		s.t.Fatal(err)
	}
	n, err := strconv.Atoi(s.line())
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// floodLimit is the limit of memory that an engine is given, in bytes, and floodMost
// what it may have in memory at any time: the program itself and stacks, and what may
// arrive before it has looked.
const floodLimit, floodMost = 64 << 20, (64 + 96) << 20

// floodIdle is what it has in memory when it has little to do, with the program itself.
const floodIdle = floodLimit / 4 * 3

func wantMemory(t *testing.T, l *lab.Lab) {
	t.Helper()
	if got := engineMemory(t, l, "VmHWM"); got > floodMost {
		t.Errorf("memory: got %d MiB, want %d at most", got>>20, floodMost>>20)
	}
}

// A victim is an instance that is flooded, with little memory.
type victim struct {
	l      *lab.Lab
	w      *web
	guest  *lab.Namespace
	server string // echoes
	sink   string // takes what it gets
}

func newVictim(t *testing.T, options ...string) *victim {
	t.Helper()
	l := newLab(t)
	v := &victim{l: l, w: newFlooded(t, l, options...)}
	v.server = join(lab.Outside4, serveTCP(t, l.Outside, echo))
	v.sink = join(lab.Outside4, serveTCP(t, l.Outside, func(c *net.TCPConn) { io.Copy(io.Discard, c) }))
	v.guest = networkOf(t, l, v.w.shell)
	return v
}

// flood floods the instance for a time, and returns how far a program beside came
// meanwhile, and what part of a processor the engine used.
func (v *victim) flood(t *testing.T, f flood, behaved *speaker, length time.Duration) (beside int, busy float64) {
	t.Helper()
	flooding := speak(t, v.guest, "flood", strings.Fields(f.name)...)
	if got := flooding.line(); got != "flooding" {
		t.Fatalf("got %q", got)
	}
	before, begun := shares(v.l), time.Now()
	spent := engineTime(t, v.l)
	beside = pace(t, behaved, length)
	busy = (engineTime(t, v.l) - spent).Seconds() / time.Since(begun).Seconds()
	t.Logf("%s: processors, had and waited for:%s", f.name, between(before, shares(v.l), time.Since(begun)))
	if f.limit != "" {
		lab.Eventually(t, f.name+": "+f.limit+" is met", func() bool { return v.w.limit(f.limit).Refused > 0 })
	}
	wantMemory(t, v.l)
	flooding.in.Close()
	t.Logf("%s: %s frames", f.name, flooding.line())
	wantLimits(t, v.w)
	wantText(t, "afterwards", v.guest.Program("connect", v.server).MustRun(), "connected")
	behaved.number()
	return beside, busy
}

// TestFlood floods a guest's engine with one thing after the other, and wants a
// connection beside it to go on, new ones to be possible afterwards, and the
// engine's memory to stay within its limit.
func TestFlood(t *testing.T) {
	t.Parallel()
	if os.Getenv(floodVariable) != "" {
		measureFloods(t)
		return
	}
	v := newVictim(t)
	behaved := speak(t, v.guest, "pingpong", v.server)
	alone := pace(t, behaved, floodTime(t))
	for _, f := range floods() {
		beside, busy := v.flood(t, f, behaved, floodTime(t))
		t.Logf("%s: exchanges beside: %d alone, %d in the flood, engine busy for %.2f", f.name, alone, beside, busy)
	}
}

// TestFloodFew floods an engine that may have 64 descriptors: a connection beside goes
// on, and afterwards there are new ones.
func TestFloodFew(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	server := join(lab.Outside4, serveTCP(t, l.Outside, echo))
	w := newFew(t, l, 64)
	guest := networkOf(t, l, w.shell)
	behaved := speak(t, guest, "pingpong", server)
	for _, f := range floods() {
		flooding := speak(t, guest, "flood", strings.Fields(f.name)...)
		wantText(t, f.name, flooding.line(), "flooding")
		from := behaved.number()
		lab.Eventually(t, "the connection beside goes on", func() bool { return behaved.number() >= from+10 })
		flooding.in.Close()
		flooding.line()
	}
	lab.Eventually(t, "others are connected", func() bool {
		return guest.Program("connect", server).MustRun() == "connected\n"
	})
}

// measureFloods has a new instance for each flood, and looks what becomes of
// exchanges and of bulk beside it. With all of them together it waits until memory is
// given back.
func measureFloods(t *testing.T) {
	length := floodTime(t)
	for _, way := range []string{"on", "off"} {
		for _, f := range floods() {
			t.Run("shortcut "+way+"/"+f.name, func(t *testing.T) {
				measureFlood(t, newVictim(t, "--shortcut="+way), f, length)
			})
		}
	}
	t.Run("all", func(t *testing.T) {
		v := newVictim(t)
		behaved := speak(t, v.guest, "pingpong", v.server)
		for _, f := range floods() {
			v.flood(t, f, behaved, length)
		}
		behaved.in.Close()
		behaved.Wait()
		begun := time.Now()
		const dialling = 6 * time.Minute // what is dialled is given up after two, then garbage is collected
		for engineMemory(t, v.l, "VmRSS") >= floodIdle {
			if time.Since(begun) > dialling {
				t.Fatalf("memory: got %d MiB, want less than %d", engineMemory(t, v.l, "VmRSS")>>20, floodIdle>>20)
			}
			<-time.After(time.Second)
		}
		t.Logf("memory is given back after %v", time.Since(begun))
	})
}

// measureFlood looks what becomes of exchanges and of bulk beside a flood.
func measureFlood(t *testing.T, v *victim, f flood, length time.Duration) {
	for _, beside := range []struct{ program, to, unit string }{{"pingpong", v.server, "exchanges"}, {"stream", v.sink, "KiB"}} {
		behaved := speak(t, v.guest, beside.program, beside.to)
		alone := pace(t, behaved, length)
		n, busy := v.flood(t, f, behaved, length)
		t.Logf("%s: %s: %d alone, %d in the flood (%.2f), engine busy for %.2f", f.name, beside.unit, alone, n, float64(n)/float64(max(alone, 1)), busy)
		behaved.in.Close()
		behaved.Wait()
	}
}

// streamProgram ADDRESS sends as fast as it can until its standard input ends, and
// prints after each line of it how much that is, in KiB.
func streamProgram(args []string) int {
	conn, err := connect("tcp", args[0])
	if err != nil {
		return quit(err)
	}
	defer conn.Close()
	var sent atomic.Int64
	go func() { // ends with the program
		b := make([]byte, 64<<10)
		for {
			n, err := conn.Write(b)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	b := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(b); err != nil {
			return 0
		}
		fmt.Println(sent.Load() >> 10)
	}
}

// TestSlowReaders has a hundred connections by frames that the guest does not read
// from, each of which could hold 4 MiB.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	const readers = 100
	l := newLab(t)
	var sent atomic.Int64
	talk := serveTCP(t, l.Outside, func(c *net.TCPConn) {
		b := make([]byte, 16<<10)
		for n, err := 0, error(nil); err == nil; n, err = c.Write(b) {
			sent.Add(int64(n))
		}
	})
	server := join(lab.Outside4, serveTCP(t, l.Outside, echo))
	w := newFlooded(t, l, "--shortcut=off")
	guest := networkOf(t, l, w.shell)
	behaved := speak(t, guest, "pingpong", server)
	slow := speak(t, guest, "unread", join(lab.Outside4, talk), fmt.Sprint(readers))
	if got := slow.line(); got != fmt.Sprint(readers) {
		t.Fatalf("got %q connections, want %d", got, readers)
	}
	last, same := int64(0), 0
	l.Eventually("nothing more is sent", func() bool {
		behaved.number()
		if now := sent.Load(); now > last {
			last, same = now, 0
		}
		same++
		return last > 0 && same == 20
	})
	wantMemory(t, l)
	t.Logf("%d MiB sent, %+v, at most %d MiB in memory", last>>20, w.limit("tcp_memory"), engineMemory(t, l, "VmHWM")>>20)
	before := behaved.number()
	lab.Eventually(t, "the connection beside goes on", func() bool { return behaved.number() >= before+10 })
	slow.in.Close()
	slow.Wait()
	l.Eventually("the memory is given back", func() bool { return engineMemory(t, l, "VmRSS") < floodIdle })
	behaved.number()
}

// unreadProgram ADDRESS N opens N connections, says how many, and does not read
// from them until its standard input ends.
func unreadProgram(args []string) int {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return quit(err)
	}
	for range n {
		conn, err := connect("tcp", args[0])
		if err != nil {
			return quit(err)
		}
		defer conn.Close()
	}
	fmt.Println(n)
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// newFlooded starts an instance with little memory.
func newFlooded(t *testing.T, l *lab.Lab, options ...string) *web {
	t.Helper()
	c := guest(l, append(options, "--name=web", "--limit=fragments=128K"), "sh")
	c.Env = append(c.Env, fmt.Sprintf("GOMEMLIMIT=%d", floodLimit))
	return newWebOf(l, startShell(t, c))
}

// pace returns how many exchanges there are in a time, and waits until there are
// some, on a machine where that takes longer.
func pace(t *testing.T, behaved *speaker, length time.Duration) int {
	t.Helper()
	from := behaved.number()
	<-time.After(length)
	n := behaved.number() - from
	lab.Eventually(t, "the connection beside goes on", func() bool { return behaved.number() >= from+10 })
	return n
}

// wantLimits wants all limits kept.
func wantLimits(t *testing.T, w *web) {
	t.Helper()
	stats, status := w.ask("GET", "/v1/stats", "")
	limits, _ := stats["limits"].(map[string]any)
	if status != 200 || len(limits) == 0 {
		t.Fatalf("stats: got %v and status %d", stats, status)
	}
	for name := range limits {
		l := w.limit(name)
		if l.Now > 0 || l.Refused > 0 {
			t.Logf("%s: %+v", name, l)
		}
		if l.Limit > 0 && l.Now > l.Limit && name != "memory" && name != "descriptors" { // of which some are kept
			t.Errorf("%s: got %+v", name, l)
		}
	}
}

// limit returns a limit of the instance's.
func (w *web) limit(name string) (l struct{ Now, Limit, Refused float64 }) {
	w.t.Helper()
	stats, _ := w.ask("GET", "/v1/stats", "")
	limits, _ := stats["limits"].(map[string]any)
	v, _ := limits[name].(map[string]any)
	l.Now, _ = v["now"].(float64)
	l.Limit, _ = v["limit"].(float64)
	l.Refused, _ = v["refused"].(float64)
	return l
}
