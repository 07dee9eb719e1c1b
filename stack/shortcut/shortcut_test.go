package shortcut

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/stack/nat"
	"taproot/stack/shortcut/mark"
	"taproot/test/settle"
)

// inFamilies runs a test in a namespace, for each family.
func inFamilies(t *testing.T, test func(*testing.T, family)) {
	if !inNamespace(t) {
		return
	}
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// wantEcho sends a word from one end to the other and another one back.
func wantEcho(t *testing.T, a, b net.Conn) {
	t.Helper()
	for i, c := range [][2]net.Conn{{a, b}, {b, a}} {
		word := []string{"ping", "pong"}[i]
		if _, err := io.WriteString(c[0], word); err != nil {
			t.Errorf("write: %v", err)
			return
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(c[1], got); err != nil || string(got) != word {
			t.Errorf("got %q and error %v, want %s", got, err, word)
		}
	}
}

// A connection is made after the target's, and ends half by half.
func TestConnect(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		guest := w.newClient(t, f).open(t)
		host := receive(t, conns, "the connection to the target")
		wantEcho(t, guest, host)
		for live := range w.flows.All() {
			if live.Way() != flow.Shortcut {
				t.Errorf("way: got %v, want %v", live.Way(), flow.Shortcut)
			}
		}
		guest.CloseWrite()
		if b, err := io.ReadAll(host); err != nil || len(b) > 0 {
			t.Errorf("host: got %q and error %v, want the end", b, err)
		}
		io.WriteString(host, "late")
		host.CloseWrite()
		if b, err := io.ReadAll(guest); err != nil || string(b) != "late" {
			t.Errorf("guest: got %q and error %v, want late", b, err)
		}
		settle.Until(t, "the flow is gone", func() bool { return w.flows.Len(flow.TCP) == 0 })
		s := &w.shortcut.Stats
		if s.Connected.Load() != 1 || s.PutBack.Load() != 1 || s.Unknown.Load() != 0 {
			t.Errorf("stats: got %d connected, %d put back, %d unknown, want 1, 1, 0", s.Connected.Load(), s.PutBack.Load(), s.Unknown.Load())
		}
	})
}

// Nobody listens: RST, as from the target.
func TestRefused(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		c := w.newClient(t, f)
		c.syn(t)
		tcp := tcpOf(w.next(t))
		if flags, ack := tcp[13], binary.BigEndian.Uint32(tcp[8:]); flags != flagRST|flagACK || ack != c.sequence+1 {
			t.Errorf("got flags %#x and acknowledgment %d, want %#x and %d", flags, ack, flagRST|flagACK, c.sequence+1)
		}
		if n := w.shortcut.Stats.Refused.Load(); n != 1 {
			t.Errorf("refused: got %d, want 1", n)
		}
		if n := w.flows.Len(flow.TCP); n != 0 {
			t.Errorf("flows: got %d, want 0", n)
		}
	})
}

// A rule's "no" is what Config.Denied says, and no flow.
func TestDenied(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t, func(c *Config) { c.Denied = nat.NetUnreachable })
		c := w.newClient(t, f)
		c.to = netip.AddrPortFrom(f.gateway, c.to.Port())
		c.syn(t)
		icmp := tcpOf(w.next(t))
		want := map[string][2]byte{"ipv4": {3, 0}, "ipv6": {1, 0}}[f.name]
		if [2]byte(icmp) != want {
			t.Errorf("got type and code %v, want %v", icmp[:2], want)
		}
		if n := w.flows.Stats(flow.TCP).Opened; n != 0 {
			t.Errorf("flows: got %d opened, want 0", n)
		}
	})
}

// What the listener accepts without an offer is reset.
func TestUnknownIsReset(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		c := w.newClient(t, f)
		conn, err := net.Dial("tcp", c.to.String())
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
		}
		if n := w.shortcut.Stats.Unknown.Load(); n != 1 {
			t.Errorf("unknown: got %d, want 1", n)
		}
	})
}

// A SYN that is sent again after it was put back is put back again; one that
// comes back from the guest's own routing is not.
func TestRetransmission(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		c := w.newClient(t, f)
		c.syn(t)
		c.wantPutBack(t)
		w.send(t, segment(c.from, c.to, mark.Local, 63, flagSYN, c.sequence, 0))
		c.syn(t)
		c.wantPutBack(t)
		c.sequence += 12345 // another attempt from the same port
		c.syn(t)
		c.wantPutBack(t)
		wantEcho(t, c.connect(t), receive(t, conns, "the connection to the target"))
		w.none(t)
		select {
		case <-conns:
			t.Error("got two connections to the target, want one")
		default:
		}
	})
}

// The guest's port is used again while its last connection lives here.
func TestPortReuse(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		c := w.newClient(t, f)
		first := c.open(t)
		old := receive(t, conns, "the first connection")
		wantEcho(t, first, old)
		first.SetLinger(0)
		first.Close()
		c.sequence += 12345
		wantEcho(t, c.open(t), receive(t, conns, "the second connection"))
		if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("first: got %v, want %v", err, syscall.ECONNRESET)
		}
	})
}

// What nobody accepts is served by the stack, with the same connection to the
// target. After a few of those the shortcut gives up.
func TestBroken(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		w.newClient(t, f).open(t) // it has worked
		receive(t, conns, "the first connection to the target")
		for range tolerance {
			c := w.newClient(t, f)
			c.syn(t)
			c.wantPutBack(t)
			host := receive(t, conns, "the connection to the target")
			c.acknowledge(t)
			io.WriteString(host, "hello")
			for { // acknowledgments, and then what the host says
				tcp := c.next(t)
				if data := tcp[tcp[12]>>4*4:]; len(data) > 0 {
					if !strings.HasPrefix("hello", string(data)) {
						t.Errorf("got %q, want hello or its beginning", data)
					}
					break
				}
			}
		}
		receive(t, w.broken, "the news that the rules are broken")
		if w.shortcut.Enabled() {
			t.Error("the shortcut is still enabled")
		}
		c := w.newClient(t, f)
		c.syn(t)
		c.acknowledge(t) // the stack's, at once
		s := &w.shortcut.Stats
		if s.Handed.Load() != tolerance || s.Broken.Load() != tolerance {
			t.Errorf("got %d handed over and %d broken, want %d", s.Handed.Load(), s.Broken.Load(), tolerance)
		}
		for live := range w.flows.All() {
			if want := flow.ByFrames; live.ID != 1 && live.Way() != want {
				t.Errorf("way: got %v, want %v", live.Way(), want)
			}
		}
	})
}

// Rules that never worked delay one connection, and when they are made again one
// for a short time.
func TestBrokenAtFirst(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		w.serve(t, f)
		for range 2 {
			first, second := w.newClient(t, f), w.newClient(t, f)
			first.syn(t)
			first.wantPutBack(t)
			second.syn(t) // while the first waits
			second.acknowledge(t)
			first.acknowledge(t)
			receive(t, w.broken, "the news that the rules are broken")
			if got := w.shortcut.patience(); got != briefly {
				t.Errorf("patience: got %v, want %v", got, briefly)
			}
			w.shortcut.SetEnabled(true)
		}
		if n := w.shortcut.Stats.Handed.Load(); n != 2 {
			t.Errorf("handed over: got %d, want 2", n)
		}
		w.newClient(t, f).open(t)
		settle.Until(t, "patience is back", func() bool { return w.shortcut.patience() == Patience })
	})
}

// acknowledge completes a handshake with the stack.
func (c *client) acknowledge(t *testing.T) {
	t.Helper()
	tcp := c.next(t)
	if tcp[13] != flagSYN|flagACK {
		t.Fatalf("flags: got %#x, want %#x", tcp[13], flagSYN|flagACK)
	}
	c.w.send(t, segment(c.from, c.to, 0, 64, flagACK, c.sequence+1, binary.BigEndian.Uint32(tcp[4:])+1))
}

// The guest gave up before its SYN was put back: its kernel answers neither the
// listener nor the stack, and nothing is wrong with the rules.
func TestAbandoned(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		c := w.newClient(t, f)
		c.syn(t)
		c.wantPutBack(t)
		host := receive(t, conns, "the connection to the target")
		tcp := c.next(t)
		if tcp[13] != flagSYN|flagACK {
			t.Fatalf("flags: got %#x, want %#x", tcp[13], flagSYN|flagACK)
		}
		w.send(t, segment(c.from, c.to, 0, 64, flagRST, binary.BigEndian.Uint32(tcp[8:]), 0))
		if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("host: got %v, want %v", err, syscall.ECONNRESET)
		}
		settle.Until(t, "the flow is gone", func() bool { return w.flows.Len(flow.TCP) == 0 })
		if n := w.shortcut.Stats.Broken.Load(); n != 0 {
			t.Errorf("broken: got %d, want 0", n)
		}
	})
}

// The end of Run resets what is pending; connections are the Mover's, and what
// comes after is the stack's.
func TestRunEnds(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		guest := w.newClient(t, f).open(t)
		host := receive(t, conns, "the connection to the target")
		wantEcho(t, guest, host)
		c := w.newClient(t, f)
		c.syn(t)
		c.wantPutBack(t)
		pending := receive(t, conns, "the second connection")
		w.end()
		receive(t, w.ended, "the end of Run")
		if _, err := pending.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("pending: got %v, want %v", err, syscall.ECONNRESET)
		}
		wantEcho(t, guest, host)
		c = w.newClient(t, f)
		c.syn(t)
		c.acknowledge(t) // the stack's
	})
}

// The target has answered, spoken and reset the connection before we look: the
// guest gets a connection, what was said, and the reset.
func TestResetAtOnce(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		c := w.newClient(t, f)
		target := netip.AddrPortFrom(f.host, c.to.Port())
		syn := w.keep(t, c)
		key := keyOf(syn)
		live, err := w.flows.Open(key)
		if err != nil {
			t.Fatal(err)
		}
		a := &attempt{key: key, flow: live, syn: syn}
		if a.host, err = (nat.Bind{}).Stream(f.host); err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(a.host, sockaddr(target)); err != unix.EINPROGRESS {
			t.Fatalf("connect: %v", err)
		}
		host := receive(t, conns, "the connection to the target")
		io.WriteString(host, "hello")
		host.SetLinger(0)
		host.Close()
		w.shortcut.enter(a)
		w.shortcut.dialed(a, socket.Progress(a.host))
		c.wantPutBack(t)
		b := []byte("hello")
		conn, err := c.tryConnect()
		if err == nil { // the reset may be faster than our looking at the connection
			b, err = io.ReadAll(conn)
			conn.Close()
		}
		if string(b) != "hello" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q and error %v, want hello and %v", b, err, syscall.ECONNRESET)
		}
		settle.Until(t, "the flow is gone", func() bool { return w.flows.Len(flow.TCP) == 0 })
	})
}

// keep returns a client's SYN, which the shortcut does not get.
func (w *world) keep(t *testing.T, c *client) *stack.SYN {
	t.Helper()
	w.holding.Store(true)
	defer w.holding.Store(false)
	c.syn(t)
	return receive(t, w.kept, "the SYN")
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
