package shortcut

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/socket"
	"taproot/stack"
	"taproot/stack/flow"
	"taproot/test/settle"
)

// leaveFree takes descriptors until only n are left, and returns what gives
// them back.
func leaveFree(t *testing.T, n int) (release func()) {
	t.Helper()
	var usual unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(settle.Descriptors() + 40), Max: usual.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	var taken []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	for ; n > 0; n-- {
		unix.Close(taken[len(taken)-1])
		taken = taken[:len(taken)-1]
	}
	return func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
			t.Error(err)
		}
	}
}

// At the limit of descriptors the guest is refused: with RST in place of a
// connection to the target, and by a reset of what its kernel has connected
// already. What was there goes on, and there is room again.
func TestDescriptors(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		first := w.newClient(t, f)
		// Nobody accepts here: that would take a descriptor too.
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.host, first.to.Port())))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		guest := first.open(t)
		host, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		wantEcho(t, guest, host) // it is joined
		second, third, last := w.newClient(t, f), w.newClient(t, f), w.newClient(t, f)
		s := blocking(t, second.from)

		release := leaveFree(t, 1) // for the connection to the target
		second.syn(t)
		second.wantPutBack(t)
		if err := unix.Connect(s, sockaddr(second.to)); err != nil && err != unix.ECONNRESET {
			t.Errorf("connect: %v", err)
		}
		if n, err := unix.Read(s, make([]byte, 1)); err != unix.ECONNRESET && n != 0 {
			t.Errorf("read: got %d bytes and error %v, want %v", n, err, unix.ECONNRESET)
		}
		settle.Until(t, "the refused flow is gone", func() bool { return w.flows.Len(flow.TCP) == 1 })
		release()

		release = leaveFree(t, 0)
		third.syn(t)
		if tcp := third.next(t); tcp[13] != flagRST|flagACK {
			t.Errorf("got flags %#x, want %#x", tcp[13], flagRST|flagACK)
		}
		wantEcho(t, guest, host)
		release()

		stats := &w.shortcut.Stats
		if stats.Exhausted.Load() != 2 || stats.Unknown.Load() != 0 || stats.Handed.Load() != 0 {
			t.Errorf("got %d exhausted, %d unknown, %d handed over, want 2, 0, 0", stats.Exhausted.Load(), stats.Unknown.Load(), stats.Handed.Load())
		}
		last.open(t)
		settle.Until(t, "there is room again", func() bool { return stats.Connected.Load() == 2 })
	})
}

// blocking returns a socket that is bound and not connected yet.
func blocking(t *testing.T, from netip.AddrPort) int {
	t.Helper()
	fd, err := unix.Socket(socket.Family(from.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	a := socket.NewAddress(from)
	if err := a.Bind(fd); err != nil {
		t.Fatal(err)
	}
	return fd
}

// A target that does not answer at once: the guest's SYN is swallowed meanwhile,
// and put back as it was last when the target is there.
func TestSlowTarget(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		c := w.newClient(t, f)
		target := netip.AddrPortFrom(f.host, c.to.Port())
		l := blocking(t, target)
		if err := unix.Listen(l, 0); err != nil { // has room for one
			t.Fatal(err)
		}
		filler := blocking(t, netip.AddrPortFrom(f.host, 0))
		if err := unix.Connect(filler, sockaddr(target)); err != nil {
			t.Fatal(err)
		}
		c.syn(t)
		c.syn(t)
		c.sequence += 1000
		c.syn(t)
		settle.Until(t, "the target is dialled for the last SYN", func() bool { return w.shortcut.dialsFor(c.sequence) })
		fd, _, err := unix.Accept(l) // and now has room again; the host's SYN comes after a second
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		c.wantPutBack(t)
		guest := c.connect(t)
		settle.Until(t, "the connection is joined", func() bool { return w.shortcut.Stats.Connected.Load() == 1 })
		c.syn(t) // was on its way all the time
		if fd, _, err = unix.Accept(l); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			t.Error(err)
		}
		unix.Close(fd)
		b := make([]byte, 2)
		if n, err := guest.Read(b); n != 1 || err != nil {
			t.Errorf("got %d bytes and error %v, want 1", n, err)
		}
		if n := w.shortcut.Stats.PutBack.Load(); n != 1 {
			t.Errorf("put back: got %d, want 1", n)
		}
		w.none(t)
	})
}

// dialsFor tells whether all waits for a target, and for this SYN.
func (s *Shortcut) dialsFor(sequence uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.dialing {
		return a.syn.Sequence == sequence
	}
	return false
}

// A connection whose client is gone before it is accepted is joined, and its
// reset passed on.
func TestResetBeforeAccept(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		conns := w.serve(t, f)
		guest := w.newClient(t, f).open(t)
		guest.SetLinger(0)
		guest.Close()
		host := receive(t, conns, "the connection to the target")
		if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want %v", err, syscall.ECONNRESET)
		}
		settle.Until(t, "the flow is gone", func() bool { return w.flows.Len(flow.TCP) == 0 })
	})
}

// At the limit of pending connections those that may come this way are dropped.
// Others are not ours.
func TestFull(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		var service atomic.Bool // that of the gateway's
		w := newWorld(t, func(c *Config) { c.Except = func(netip.AddrPort) bool { return service.Load() } })
		w.serve(t, f)
		first, second, third := w.newClient(t, f), w.newClient(t, f), w.newClient(t, f)
		w.shortcut.fill()
		syn := w.keep(t, first)
		if !w.shortcut.Handle(syn) || w.shortcut.Stats.Overflown.Load() != 1 {
			t.Errorf("got %d dropped, want 1", w.shortcut.Stats.Overflown.Load())
		}
		w.shortcut.SetEnabled(false)
		second.syn(t)
		second.acknowledge(t) // the stack's
		w.shortcut.SetEnabled(true)
		service.Store(true)
		third.syn(t)
		third.acknowledge(t)
		if n := w.shortcut.Stats.Overflown.Load(); n != 1 {
			t.Errorf("got %d dropped, want 1", n)
		}
	})
}

// At the limit a connection that is allowed takes the place of a dial that waits, and
// one that the policy denies does not.
func TestFullOfDials(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		w.serve(t, f)
		denied, allowed := w.newClient(t, f), w.newClient(t, f)
		denied.to = netip.AddrPortFrom(f.gateway, 1) // the host's loopback, which is closed
		waiting := w.shortcut.enterWaiting(t, w.newClient(t, f))
		w.shortcut.fill()
		stats := &w.shortcut.Stats
		if !w.shortcut.Handle(w.keep(t, denied)) || stats.Denied.Load() != 1 {
			t.Errorf("got %d denied, want 1", stats.Denied.Load())
		}
		if !w.shortcut.waits(waiting) || stats.Evicted.Load() != 0 {
			t.Errorf("denied: got the dial waiting %v and %d evicted, want true and 0", w.shortcut.waits(waiting), stats.Evicted.Load())
		}
		if !w.shortcut.Handle(w.keep(t, allowed)) || w.shortcut.waits(waiting) || stats.Evicted.Load() != 1 {
			t.Errorf("allowed: got the dial waiting %v and %d evicted, want false and 1", w.shortcut.waits(waiting), stats.Evicted.Load())
		}
		allowed.wantPutBack(t)
		allowed.connect(t)
		settle.Until(t, "the connection is joined", func() bool { return stats.Connected.Load() == 1 })
	})
}

// enterWaiting enters a dial of a client's that does not end by itself.
func (s *Shortcut) enterWaiting(t *testing.T, c *client) *attempt {
	t.Helper()
	key := flow.Key{Proto: flow.TCP, Initiator: c.from, Target: c.to}
	f, err := s.cfg.Flows.OpenBy(key, flow.Shortcut)
	if err != nil {
		t.Fatal(err)
	}
	a := &attempt{key: key, flow: f, syn: &stack.SYN{}, since: f.Opened}
	if a.host, err = s.cfg.Bind.Stream(c.to.Addr()); err != nil {
		t.Fatal(err)
	}
	s.enter(a)
	s.await(a)
	return a
}

// waits tells whether a dial still waits.
func (s *Shortcut) waits(a *attempt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialing[a.id] == a
}

// fill leaves no room for attempts.
func (s *Shortcut) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.cfg.MaxPending - len(s.pending) {
		key := flow.Key{Initiator: netip.AddrPortFrom(netip.Addr{}, uint16(i))}
		s.pending[key] = &attempt{key: key, syn: &stack.SYN{}, state: past, since: time.Now().Add(time.Hour)}
	}
}

// A reserve that was lost, because others took the descriptor when it was in
// use, is there again as soon as there are some.
func TestReserve(t *testing.T) {
	inFamilies(t, func(t *testing.T, f family) {
		w := newWorld(t)
		unix.Close(int(w.shortcut.spare.Swap(-1)))
		w.shortcut.pause(w.shortcut.listenerFor(f.guest))
		settle.Until(t, "there is a reserve again", func() bool { return w.shortcut.spare.Load() >= 0 })
		w.serve(t, f)
		w.newClient(t, f).open(t)
		settle.Until(t, "the listener is looked at", func() bool { return !w.shortcut.paused() && w.shortcut.Stats.Connected.Load() == 1 })
	})
}

// What does not fit is left out, and nothing that comes behind it passed on.
func TestPassOn(t *testing.T) {
	pair := func() (a, b int) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fds[0], fds[1]
	}
	said := make([]byte, 128<<10)
	for i := range said {
		said[i] = byte(i>>8 ^ i)
	}
	for range 20 {
		target, from := pair()
		to, guest := pair()
		if _, err := unix.Write(target, said); err != nil {
			t.Fatal(err)
		}
		unix.Close(target)
		if err := errors.Join(unix.SetNonblock(to, true), unix.SetsockoptInt(to, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10)); err != nil {
			t.Fatal(err)
		}
		got := make(chan []byte)
		go func() { // takes what fits, so that there is room again
			var all []byte
			for b := make([]byte, 1<<10); ; {
				n, err := unix.Read(guest, b)
				if n <= 0 || err != nil {
					break
				}
				all = append(all, b[:n]...)
			}
			got <- all
		}()
		socket.PassOn(from, to)
		unix.Close(from)
		unix.Close(to)
		if all := <-got; !bytes.HasPrefix(said, all) {
			t.Errorf("got %d bytes with a gap", len(all))
		}
		unix.Close(guest)
	}
}
