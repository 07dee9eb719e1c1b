package socket

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// TestMain checks that no test leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) { os.Exit(settle.Main(m)) }

// loopback4 is where the tests are at home.
var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func TestAddress(t *testing.T) {
	for _, s := range []string{"127.0.0.1:80", "[::1]:65535", "[2001:db8::1]:1", "0.0.0.0:0", "[::ffff:10.0.0.1]:9"} {
		want := netip.MustParseAddrPort(s)
		a := NewAddress(want)
		if got := a.AddrPort(); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	a := Address{len: 2}
	if got := a.AddrPort(); got.IsValid() {
		t.Errorf("too short: got %v, want nothing", got)
	}
}

// udp returns a socket of ours that is bound to address, and its port.
func udp(t *testing.T, address string) (*Socket, uint16) {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Skip(err)
	}
	port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	f, err := c.(*net.UDPConn).File()
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Take(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
	s.Datagrams()
	return s, port
}

// wait returns what a Poller says of s when it says something.
func wait(t *testing.T, s *Socket) []Readiness {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Add(s.FD(), 7); err != nil {
		t.Fatal(err)
	}
	defer p.Remove(s.FD())
	timer := time.AfterFunc(settle.Patience, func() { p.Close() })
	defer timer.Stop()
	ready, err := p.Wait(nil)
	if err != nil || len(ready) != 1 || ready[0].ID != 7 {
		t.Fatalf("ready: got %v, %v, want 7", ready, err)
	}
	return ready
}

// receive returns the next batch that arrives on s.
func receive(t *testing.T, b *Batch, s *Socket) []Message {
	t.Helper()
	wait(t, s)
	n, err := b.Receive(s)
	if err != nil {
		t.Fatal(err)
	}
	var list []Message
	for i := range n {
		list = append(list, b.Message(i))
	}
	return list
}

// TestDatagrams sends to each kind of socket, and back from the address that
// was written to.
func TestDatagrams(t *testing.T) {
	for _, tt := range []struct{ name, listen, client, to, local string }{
		{"IPv4", "0.0.0.0:0", "127.0.0.1:0", "127.0.0.2", "127.0.0.2"},
		{"IPv6", "[::]:0", "[::1]:0", "::1", "::1"},
		{"IPv4 on both", "[::]:0", "127.0.0.1:0", "127.0.0.2", "127.0.0.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, port := udp(t, tt.listen)
			client, _ := udp(t, tt.client)
			to := NewAddress(netip.AddrPortFrom(netip.MustParseAddr(tt.to), port))
			if err := client.Send(&to, netip.Addr{}, []byte("question"), 0); err != nil {
				t.Fatal(err)
			}
			b := NewBatch()
			got := receive(t, b, server)
			if len(got) != 1 || string(got[0].Payload) != "question" || got[0].Local() != netip.MustParseAddr(tt.local) || got[0].Segment() != 0 {
				t.Fatalf("got %+v, want one question to %s", got, tt.local)
			}
			if err := server.Send(&got[0].From, got[0].Local(), []byte("answer"), 0); err != nil {
				t.Fatal(err)
			}
			back := receive(t, b, client)
			if want := netip.AddrPortFrom(netip.MustParseAddr(tt.to), port); len(back) != 1 || back[0].From.AddrPort() != want {
				t.Errorf("answer: got %+v, want one from %v", back, want)
			}
		})
	}
}

// TestSegments sends several datagrams in one call, which may come as one
// message or as several.
func TestSegments(t *testing.T) {
	server, port := udp(t, "127.0.0.1:0")
	client, _ := udp(t, "127.0.0.1:0")
	sent := bytes.Repeat([]byte("0123456789"), 250)
	to := NewAddress(netip.AddrPortFrom(loopback4, port))
	if err := client.Send(&to, loopback4, sent, 1000); err != nil {
		t.Fatal(err)
	}
	b := NewBatch()
	var got []byte
	for len(got) < len(sent) {
		for _, m := range receive(t, b, server) {
			if n := m.Segment(); n != 0 && n != 1000 {
				t.Errorf("segment: got %d, want 1000", n)
			}
			got = append(got, m.Payload...)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, want %d that were sent", len(got), len(sent))
	}
}

// TestControl reads back all that a Control has room for, and sends it.
func TestControl(t *testing.T) {
	server, port := udp(t, "[::1]:0")
	client, _ := udp(t, "[::1]:0")
	var c Control
	c.Segment(1000)
	c.Source(netip.IPv6Loopback())
	c.Integer(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, 9)
	c.Integer(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4)
	first, size := c.Bytes()
	m := Message{Control: unsafe.Slice(first, size)}
	if got, want := m.Local(), netip.IPv6Loopback(); got != want {
		t.Errorf("source: got %v, want %v", got, want)
	}
	if got := m.Integer(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT); got != 9 {
		t.Errorf("hop limit: got %d, want 9", got)
	}
	if got := m.Integer(unix.IPPROTO_IPV6, unix.IPV6_TCLASS); got != 4 {
		t.Errorf("traffic class: got %d, want 4", got)
	}
	if got := m.Find(unix.SOL_UDP, unix.UDP_SEGMENT); len(got) != 2 {
		t.Errorf("segment: got %v, want 2 bytes", got)
	}
	if got := m.Find(unix.SOL_UDP, unix.UDP_GRO); got != nil {
		t.Errorf("what is not there: got %v, want nothing", got)
	}
	to := NewAddress(netip.AddrPortFrom(netip.IPv6Loopback(), port))
	if err := client.SendMessage(&to, []byte("head "), []byte("payload"), &c); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, NewBatch(), server); len(got) != 1 || string(got[0].Payload) != "head payload" {
		t.Errorf("got %+v, want head and payload in one", got)
	}
}

// TestErrors wants the error queue to say where nobody had listened.
func TestErrors(t *testing.T) {
	target := closedPort(t)
	s, err := New(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if err := unix.SetsockoptInt(s.FD(), unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
		t.Fatal(err)
	}
	to := NewAddress(target)
	if err := s.Send(&to, netip.Addr{}, []byte("lost"), 0); err != nil {
		t.Fatal(err)
	}
	if ready := wait(t, s); len(ready) != 1 || !ready[0].Failed {
		t.Errorf("ready: got %v, want one that failed", ready)
	}
	b := NewBatch()
	n, err := b.ReceiveErrors(s)
	if err != nil || n != 1 {
		t.Fatalf("got %d messages and error %v, want 1", n, err)
	}
	m := b.Message(0)
	if got := m.From.AddrPort(); got != target || string(m.Payload) != "lost" {
		t.Errorf("got %q to %v, want what was sent to %v", m.Payload, got, target)
	}
	if m.Find(unix.IPPROTO_IP, unix.IP_RECVERR) == nil {
		t.Error("got no extended error")
	}
	if n, err := b.ReceiveErrors(s); err != unix.EAGAIN {
		t.Errorf("empty: got %d messages and error %v, want %v", n, err, unix.EAGAIN)
	}
}

func TestOpenPrepares(t *testing.T) {
	f, err := Open(unix.AF_INET6, unix.SOCK_STREAM, func(fd int) error {
		a := NewAddress(netip.MustParseAddrPort("[::1]:0"))
		return a.Bind(fd)
	})
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	fd, err := Dup(f)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if name, err := unix.Getsockname(fd); err != nil || name.(*unix.SockaddrInet6).Port == 0 {
		t.Errorf("got %v and error %v, want a port", name, err)
	}
	want := errors.New("not today")
	if _, err := Open(unix.AF_INET, unix.SOCK_STREAM, func(int) error { return want }); err != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestRefused wants a connected socket to send again after it learned that
// nobody had listened.
func TestRefused(t *testing.T) {
	target := closedPort(t)
	f, err := Open(unix.AF_INET, unix.SOCK_DGRAM, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := Connect(t.Context(), f, target); err != nil {
		t.Fatal(err)
	}
	client, err := Take(f)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Release()
	if err := client.Send(nil, netip.Addr{}, []byte("lost"), 0); err != nil {
		t.Fatal(err)
	}
	if err := client.Send(nil, netip.Addr{}, []byte("again"), 0); err != nil {
		t.Errorf("after a refusal: got %v, want nil", err)
	}
}

// closedPort returns an address where nobody listens, by TCP or UDP.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestConnectAndAccept(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Take(file)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if _, _, err := s.Accept(); err != syscall.EAGAIN {
		t.Errorf("nobody there: got %v, want %v", err, syscall.EAGAIN)
	}
	target := l.Addr().(*net.TCPAddr).AddrPort()
	f, err := Open(Family(target.Addr()), unix.SOCK_STREAM, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Connect(t.Context(), f, target); err != nil {
		t.Fatal(err)
	}
	c, client, err := s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if client.Addr() != loopback4 || client.Port() == 0 {
		t.Errorf("client: got %v", client)
	}
	l.Close()
}

func TestConnectFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		target netip.AddrPort
		cancel bool
		want   error
	}{
		{"refused", closedPort(t), false, syscall.ECONNREFUSED},
		{"cancelled", netip.MustParseAddrPort("127.0.0.1:1"), true, nil}, // whichever is first
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Open(Family(tt.target.Addr()), unix.SOCK_STREAM, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.cancel {
				cancel()
			}
			err = Connect(ctx, f, tt.target)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// TestRemove wants silence about a socket that somebody else has open too.
func TestRemove(t *testing.T) {
	server, port := udp(t, "127.0.0.1:0")
	other, err := unix.FcntlInt(uintptr(server.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Add(server.FD(), 1), p.Remove(server.FD())); err != nil {
		t.Fatal(err)
	}
	to := NewAddress(netip.AddrPortFrom(loopback4, port))
	if err := server.Send(&to, netip.Addr{}, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	second, port := udp(t, "127.0.0.1:0")
	if err := p.Add(second.FD(), 2); err != nil {
		t.Fatal(err)
	}
	to = NewAddress(netip.AddrPortFrom(loopback4, port))
	if err := second.Send(&to, netip.Addr{}, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	ready, err := p.Wait(nil)
	if err != nil || len(ready) != 1 || ready[0].ID != 2 {
		t.Errorf("ready: got %v, %v, want 2", ready, err)
	}
	p.Close()
	if _, err := p.Wait(nil); err == nil {
		t.Error("closed: got no error")
	}
}

func TestReferences(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.(*net.UDPConn).File()
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Take(f)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Acquire() {
		t.Fatal("open: got false, want true")
	}
	s.Release()
	s.Release()
	if s.Acquire() {
		t.Error("closed: got true, want false")
	}
}
