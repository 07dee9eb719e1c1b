package engine

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/test/settle"
)

// handedOf returns a flow with an id as an engine of ours hands it over.
func handedOf(id uint64) handedFlow {
	return handedFlow{Info: flow.Info{
		ID: id, Way: flow.Shortcut, Opened: time.Unix(1e9, 0).UTC(),
		Key: flow.Key{Proto: flow.TCP, Initiator: netip.MustParseAddrPort("10.0.2.100:40000"), Target: netip.MustParseAddrPort("192.0.2.1:80")},
	}}
}

// socketsAndPipe returns descriptors for a flow: two sockets and a pipe to be read. The
// test closes what it is told to.
func socketsAndPipe(t *testing.T) passed {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[1])
	return passed{pair[0], pair[1], pipe[0]}
}

// TestHandedCheck wants nothing taken for connections that is none.
func TestHandedCheck(t *testing.T) {
	fds := socketsAndPipe(t)
	defer fds.close()
	directory, err := unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(directory)
	one := func(change func(*handedFlow)) handed {
		f := handedOf(7)
		change(&f)
		return handed{Flows: []handedFlow{f}, Last: 7}
	}
	holding := one(func(f *handedFlow) { f.Held[1] = maxHeld })
	tests := map[string]struct {
		h    handed
		fds  passed
		want string // "": nothing is wrong
	}{
		"one":                 {one(func(*handedFlow) {}), fds[:2], ""},
		"none":                {handed{Last: 3}, nil, ""},
		"it holds bytes":      {holding, fds, ""},
		"a pipe is missing":   {holding, fds[:2], "2 descriptors, want 3"},
		"one too many":        {one(func(*handedFlow) {}), fds, "3 descriptors, want 2"},
		"a directory":         {one(func(*handedFlow) {}), passed{fds[0], directory}, "of mode"},
		"a pipe as an end":    {one(func(*handedFlow) {}), passed{fds[0], fds[2]}, "of mode"},
		"a socket as a pipe":  {holding, passed{fds[0], fds[1], fds[1]}, "of mode"},
		"no id":               {one(func(f *handedFlow) { f.ID = 0 }), fds[:2], "flow 0"},
		"an old id":           {one(func(f *handedFlow) { f.ID = 2 }), fds[:2], "flow 2 after 2"},
		"the last of all":     {handed{Last: maxHandedID}, nil, ""},
		"beyond the last":     {handed{Last: maxHandedID + 1}, nil, "flow 281474976710657"},
		"an id beyond it":     {one(func(f *handedFlow) { f.ID = maxHandedID + 1 }), fds[:2], "flow 281474976710657"},
		"after the last":      {handed{Flows: []handedFlow{handedOf(7)}, Last: 6}, fds[:2], "after the last"},
		"by frames":           {one(func(f *handedFlow) { f.Way = flow.ByFrames }), fds[:2], "none of the shortcut"},
		"UDP":                 {one(func(f *handedFlow) { f.Proto = flow.UDP }), fds[:2], "none of the shortcut"},
		"a rule of outbound":  {one(func(f *handedFlow) { f.Rule = 1 }), fds[:2], "none of the shortcut"},
		"no address":          {one(func(f *handedFlow) { f.Target = netip.AddrPort{} }), fds[:2], "flow 7"},
		"less than no bytes":  {one(func(f *handedFlow) { f.Held[0] = -1 }), fds[:2], "holds -1 bytes"},
		"too many bytes":      {one(func(f *handedFlow) { f.Held[0] = maxHeld + 1 }), fds, "holds 1048577 bytes"},
		"bytes after the FIN": {one(func(f *handedFlow) { f.Held[0], f.Finished[0] = 1, true }), fds, "holds 1 bytes"},
	}
	for name, tt := range tests {
		err := tt.h.check(tt.fds, 2)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	many := handed{Last: 1 << 20}
	for i := range maxHandedFlows + 1 {
		many.Flows = append(many.Flows, handedOf(uint64(i+1)))
	}
	if err := many.check(make(passed, 2*len(many.Flows)), 0); !errors.Is(err, errHanded) {
		t.Errorf("too many: got %v, want %v", err, errHanded)
	}
}

// TestHandedFits wants as many flows as a message may have to fit into one.
func TestHandedFits(t *testing.T) {
	h := handed{Last: 1<<64 - 1}
	long := netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1111:1111:1111:1111:1111:1111%interface123456"), 65535)
	for range maxHandedFlows {
		f := handedOf(1<<64 - 1)
		f.Initiator, f.Target, f.Rule, f.Inbound = long, long, 1<<62, true
		f.ToTarget, f.ToInitiator, f.Held = 1<<62, 1<<62, [2]int{maxHeld, maxHeld}
		h.Flows = append(h.Flows, f)
	}
	b, err := message{Handed: &h}.encode()
	if err != nil {
		t.Fatal(err)
	}
	var m message
	if err := json.Unmarshal(b, &m); err != nil || !reflect.DeepEqual(*m.Handed, h) {
		t.Errorf("got %v and not what was sent", err)
	}
}

// TestHanded wants connections to go from the engine that yields to the one that
// waits, and from nobody to anybody else.
func TestHanded(t *testing.T) {
	s, from := deafSupervisor(t)
	from.process = &os.Process{}
	h := &handed{Flows: []handedFlow{handedOf(7)}, Last: 9}
	before := settle.Descriptors()
	hand := func(h *handed, fds passed) { s.hear(from, message{Handed: h}, fds) }
	pair := func() passed {
		fds := socketsAndPipe(t)
		unix.Close(fds[2])
		return fds[:2]
	}
	hand(h, pair()) // nobody waits
	if got := settle.Descriptors(); got != before {
		t.Errorf("descriptors: got %d, want %d", got, before)
	}
	ours, theirs := newWirePair(t)
	r := newReplacement(&process{wire: ours}, nil)
	s.mu.Lock()
	s.next = r
	s.mu.Unlock()
	from.yields.Store(false)
	hand(h, pair()) // nobody has asked it to
	from.yields.Store(true)
	lost := &handed{Flows: []handedFlow{handedOf(3)}, lost: true}
	some := pair()
	unix.Close(some[1])
	hand(lost, some[:1])
	if m, _, err := theirs.receiveRaw(); err != nil || m.Handed == nil || len(m.Handed.Flows) > 0 || r.refused {
		t.Errorf("without room for descriptors: got %+v and %v, want no flow, and others to follow", m.Handed, err)
	}
	hand(h, pair())
	m, fds, err := theirs.receiveRaw()
	if err != nil || !reflect.DeepEqual(m.Handed, h) || len(fds) != 2 || r.flows != 1 {
		t.Errorf("got %+v with %d descriptors and %v, want %+v", m.Handed, len(fds), err, h)
	}
	fds.close()
	hand(h, pair()) // again
	if !r.refused {
		t.Error("the same flow twice: not refused")
	}
	hand(&handed{Flows: []handedFlow{handedOf(8)}, Last: 9}, pair()) // too late
	theirs.close()
	ours.close()
	if got := settle.Descriptors(); got != before {
		t.Errorf("descriptors: got %d, want %d", got, before)
	}
}

// TestInheritNothing wants an engine without a shortcut, or one that does not wait, to
// take no harm of connections, and to keep none.
func TestInheritNothing(t *testing.T) {
	before := settle.Descriptors()
	g := &gateway{log: slog.New(slog.DiscardHandler), flows: flow.New(flow.Config{}), inherits: true}
	fds := socketsAndPipe(t)
	f := handedOf(7)
	f.Held[0] = 5
	g.inherit(&handed{Flows: []handedFlow{f}}, fds)
	fds = socketsAndPipe(t)
	f.ID = 8
	g.inherit(&handed{Flows: []handedFlow{f}}, fds) // others follow
	fds = socketsAndPipe(t)
	f.ID = 9
	g.inherit(&handed{Flows: []handedFlow{f}, Last: 9}, fds)
	if g.flows.Len(flow.TCP) != 0 || g.flows.Last() != 9 || settle.Descriptors() != before {
		t.Errorf("got %d flows, the last %d, and %d descriptors more", g.flows.Len(flow.TCP), g.flows.Last(), settle.Descriptors()-before)
	}
	g.inherits = false
	fds = socketsAndPipe(t)
	unix.Close(fds[2])
	g.inherit(&handed{Flows: []handedFlow{handedOf(10)}, Last: 10}, fds[:2])
	if g.flows.Last() != 9 || settle.Descriptors() != before {
		t.Error("it took what it did not wait for")
	}
}

// TestOrphansOf wants connections that go on not to be taken for those that are lost.
func TestOrphansOf(t *testing.T) {
	g := &gateway{flows: flow.New(flow.Config{})}
	guest, other := netip.MustParseAddrPort("10.0.2.100:1"), netip.MustParseAddrPort("192.0.2.1:80")
	lost := portfwd.Connection{Local: guest, Peer: netip.AddrPortFrom(other.Addr(), 81)}
	for _, k := range []flow.Key{{Proto: flow.TCP, Initiator: guest, Target: other}, {Proto: flow.TCP, Initiator: other, Target: netip.AddrPortFrom(guest.Addr(), 80)}} {
		f, err := g.flows.Open(k)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	got := g.orphansOf([]portfwd.Connection{{Local: guest, Peer: other}, lost, {Local: netip.AddrPortFrom(guest.Addr(), 80), Peer: other}})
	if !reflect.DeepEqual(got, []portfwd.Connection{lost}) {
		t.Errorf("got %v, want %v", got, lost)
	}
}

// lingering returns a TCP socket with bytes that its peer never reads, whose last close
// would wait for long.
func lingering(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 64<<10))
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1000}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestPassedClose wants the supervisor to wait for no socket that an engine has sent,
// whether it was received or not.
func TestPassedClose(t *testing.T) {
	begun := time.Now()
	passed{lingering(t)}.close()
	ours, theirs := newWirePair(t)
	for range 2 {
		own := passed{lingering(t)}
		if err := theirs.sendPacket(nil, nil); err != nil { // the end, as it seems
			t.Fatal(err)
		}
		if err := theirs.sendPassed(message{Pong: true}, own); err != nil {
			t.Fatal(err)
		}
		unix.Close(own[0]) // not the last one
	}
	ours.hangUp()
	if took := time.Since(begun); took > settle.Patience {
		t.Errorf("took %v", took)
	}
}
