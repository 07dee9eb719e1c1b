package portfwd

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// A fakeDirect answers as dial says, on another goroutine if it is late.
type fakeDirect struct {
	inherit error // of Inherit
	dial    func(source, target netip.AddrPort) (fd int, err error)
	late    bool
	dialed  chan dialed
	doubts  atomic.Int32
	joined  atomic.Int32
	ended   atomic.Int32
	keys    chan flow.Key // of those that have joined
}

func newFakeDirect(dial func(source, target netip.AddrPort) (int, error)) *fakeDirect {
	return &fakeDirect{dial: dial, dialed: make(chan dialed, 100), keys: make(chan flow.Key, 100)}
}

func (f *fakeDirect) Dial(source, target netip.AddrPort, done func(int, error)) {
	f.dialed <- dialed{source, target}
	if f.late {
		go func() { done(f.dial(source, target)) }()
		return
	}
	done(f.dial(source, target))
}

func (f *fakeDirect) Doubt() { f.doubts.Add(1) }

func (f *fakeDirect) Joined(joined *flow.Flow) {
	f.joined.Add(1)
	f.keys <- joined.Key
}

func (f *fakeDirect) Ended(*flow.Flow) { f.ended.Add(1) }

func (f *fakeDirect) Inherit(*flow.Flow, int, bool) error { return f.inherit }

// echoing returns a connected socket whose other end sends back what it gets.
func echoing(netip.AddrPort, netip.AddrPort) (int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	f := os.NewFile(uintptr(fds[1]), "guest")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		unix.Close(fds[0])
		return -1, err
	}
	go func() {
		defer c.Close()
		io.Copy(c, c)
	}()
	return fds[0], nil
}

func failing(err error) func(netip.AddrPort, netip.AddrPort) (int, error) {
	return func(netip.AddrPort, netip.AddrPort) (int, error) { return -1, err }
}

var directRule = Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Target: netip.AddrPortFrom(guest4, 80)}

// TestDirect leads clients past the stack, at once and later.
func TestDirect(t *testing.T) {
	for name, late := range map[string]bool{"at once": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDirect(echoing)
			d.late = late
			b := newDirectBench(t, flow.Config{}, d)
			c := dial(t, b.add(t, directRule).at("127.0.0.1"))
			wantEcho(t, c)
			port := c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
			want := dialed{netip.AddrPortFrom(gateway4, port), netip.AddrPortFrom(guest4, 80)}
			if got := <-d.dialed; got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			if n := len(b.guest.dialed); n != 0 {
				t.Errorf("the stack was asked for %d connections, want none", n)
			}
			settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
			if joined, ended := d.joined.Load(), d.ended.Load(); joined != 1 || ended != 1 {
				t.Errorf("joined %d times and ended %d times, want once each", joined, ended)
			}
		})
	}
}

// TestDirectWay wants the table to say which way a flow goes.
func TestDirectWay(t *testing.T) {
	for want, dialer := range map[flow.Way]func(netip.AddrPort, netip.AddrPort) (int, error){
		flow.Shortcut: echoing, flow.ByFrames: failing(errors.New("not this one")),
	} {
		b := newDirectBench(t, flow.Config{}, newFakeDirect(dialer))
		c := dial(t, b.add(t, directRule).at("127.0.0.1"))
		wantLiving(t, c)
		for f := range b.flows.All() {
			if f.Way() != want {
				t.Errorf("got %v, want %v", f.Way(), want)
			}
		}
		c.Close()
	}
}

// TestDirectFalls wants the stack to serve whom nothing else does, and to say so only
// where the guest had seemed to be silent.
func TestDirectFalls(t *testing.T) {
	for _, tt := range []struct {
		err    error
		doubts int32
	}{{errors.New("not this one"), 0}, {syscall.EMFILE, 0}, {syscall.ETIMEDOUT, 1}} {
		d := newFakeDirect(failing(tt.err))
		b := newDirectBench(t, flow.Config{}, d)
		c := dial(t, b.add(t, directRule).at("127.0.0.1"))
		wantEcho(t, c)
		if direct, stack := <-d.dialed, <-b.guest.dialed; direct != stack {
			t.Errorf("%v: the stack was asked for %v, want %v", tt.err, stack, direct)
		}
		if got := d.doubts.Load(); got != tt.doubts {
			t.Errorf("%v: got %d doubts, want %d", tt.err, got, tt.doubts)
		}
	}
}

// TestDirectRefused wants the guest's refusal to reach the client, without the stack.
func TestDirectRefused(t *testing.T) {
	d := newFakeDirect(failing(syscall.ECONNREFUSED))
	b := newDirectBench(t, flow.Config{}, d)
	wantRefused(t, b.add(t, directRule).at("127.0.0.1"))
	if got := b.publisher.Stats.Refused.Load(); got != 1 {
		t.Errorf("refused: counted %d times, want 1", got)
	}
	if n := len(b.guest.dialed); n != 0 {
		t.Errorf("the stack was asked for %d connections, want none", n)
	}
	settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
}

// TestDirectTurns wants both families to be asked, once each, where the rule allows it.
func TestDirectTurns(t *testing.T) {
	d := newFakeDirect(failing(syscall.ECONNREFUSED))
	b := newDirectBench(t, flow.Config{}, d)
	wantRefused(t, b.add(t, Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0")}).at("127.0.0.1"))
	settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
	if got := len(d.dialed); got != 2 {
		t.Fatalf("got %d tries, want 2", got)
	}
	for _, want := range []netip.Addr{guest4, guest6} {
		if got := <-d.dialed; got.target.Addr() != want {
			t.Errorf("got target %v, want %v", got.target, want)
		}
	}
}

// TestDirectPorts wants another source port when the pair is in use, a few times, and
// then the stack.
func TestDirectPorts(t *testing.T) {
	d := newFakeDirect(failing(syscall.EADDRINUSE))
	b := newDirectBench(t, flow.Config{}, d)
	wantEcho(t, dial(t, b.add(t, directRule).at("127.0.0.1")))
	<-b.guest.dialed
	if got := len(d.dialed); got != dialTries+1 {
		t.Fatalf("got %d tries, want %d", got, dialTries+1)
	}
	first := <-d.dialed
	for len(d.dialed) > 0 {
		if got := <-d.dialed; got.source.Addr() != first.source.Addr() || got.source.Port() < dynamicPort {
			t.Errorf("got source %v, want another port of %v", got.source, first.source.Addr())
		}
	}
}

// TestDirectPortKey wants a connection to be known by the source port that it has got
// after all, by whichever way.
func TestDirectPortKey(t *testing.T) {
	for way, after := range map[flow.Way]func(source, target netip.AddrPort) (int, error){
		flow.Shortcut: echoing, flow.ByFrames: failing(errors.New("not this one")),
	} {
		t.Run(way.String(), func(t *testing.T) {
			var first atomic.Pointer[netip.AddrPort]
			d := newFakeDirect(func(source, target netip.AddrPort) (int, error) {
				if first.CompareAndSwap(nil, &source) || source == *first.Load() {
					return -1, syscall.EADDRINUSE
				}
				return after(source, target)
			})
			b := newDirectBench(t, flow.Config{}, d)
			wantLiving(t, dial(t, b.add(t, directRule).at("127.0.0.1")))
			want := flow.Key{Proto: flow.TCP, Target: directRule.Target}
			for len(d.dialed) > 0 {
				want.Initiator = (<-d.dialed).source
			}
			wantFlow(t, b, want)
			if way == flow.Shortcut {
				if got := <-d.keys; got != want {
					t.Errorf("joined: got %v, want %v", got, want)
				}
			}
		})
	}
}

// wantFlow wants a flow to be the only one.
func wantFlow(t *testing.T, b *bench, want flow.Key) {
	t.Helper()
	var got []flow.Key
	for f := range b.flows.All() {
		got = append(got, f.Key)
	}
	if !slices.Equal(got, []flow.Key{want}) {
		t.Errorf("flows: got %v, want %v", got, want)
	}
}

// wantLiving wants a connection to answer, and leaves it open.
func wantLiving(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestDirectReset passes on what the guest had sent before it reset a connection.
func TestDirectReset(t *testing.T) {
	d := newFakeDirect(func(netip.AddrPort, netip.AddrPort) (int, error) {
		fd, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err == nil {
			_, err = unix.Write(fd[1], []byte("last words"))
			unix.Close(fd[1])
		}
		return fd[0], errors.Join(err, syscall.ECONNRESET)
	})
	b := newDirectBench(t, flow.Config{}, d)
	c, err := net.Dial("tcp", b.add(t, directRule).at("127.0.0.1").String())
	if errors.Is(err, syscall.ECONNRESET) {
		return // it was before the client knew that it was connected
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(settle.Patience))
	got, err := io.ReadAll(c)
	if !errors.Is(err, syscall.ECONNRESET) || string(got) != "last words" && len(got) != 0 {
		t.Errorf("got %q and %v, want the guest's words or none, and %v", got, err, syscall.ECONNRESET)
	}
}
