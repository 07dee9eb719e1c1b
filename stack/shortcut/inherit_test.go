package shortcut

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack/flow"
	"taproot/stack/policy"
	"taproot/test/settle"
)

// withGuests has the policy know the guest's addresses.
func withGuests(t *testing.T) func(*Config) {
	t.Helper()
	c := policy.Config{}
	for _, f := range families() {
		c.Maps = append(c.Maps, policy.Map{Guest: f.target, Host: f.host, Ports: policy.AllPorts()})
		c.Guests = append(c.Guests, netip.PrefixFrom(f.guest, f.guest.BitLen()))
	}
	rules, err := policy.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return func(cfg *Config) { cfg.Rules = rules }
}

// An inherited is a connection that another process had, with its two peers.
type inherited struct {
	flow.Info
	relay.Passed
	guest, host *net.TCPConn // the peers
}

// pairOf connects two addresses, whose ports are its own, and returns both ends. The
// first belongs to who wants it.
func pairOf(t *testing.T, from, to netip.Addr) (fd int, peer *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: settle.Patience}
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	f, err := accepted.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fd, err = socket.Dup(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(settle.Patience))
	return fd, c.(*net.TCPConn)
}

// addrs returns the addresses of a connection as who has made it sees them.
func addrs(c *net.TCPConn) (from, to netip.AddrPort) {
	return c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
}

// newInherited makes a connection as an engine before would have had it.
func newInherited(t *testing.T, f family) *inherited {
	t.Helper()
	i := &inherited{Info: flow.Info{ID: 1, Way: flow.Shortcut, Opened: time.Now()}}
	i.Ends[0], i.guest = pairOf(t, f.guest, f.target)
	i.Initiator, i.Target = addrs(i.guest)
	at := netip.AddrPortFrom(f.host, i.Target.Port())
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if i.host, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.host.Close() })
	i.host.SetDeadline(time.Now().Add(settle.Patience))
	file, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if i.Ends[1], err = socket.Dup(file); err != nil {
		t.Fatal(err)
	}
	return i
}

// TestInherit goes on with a connection of another process, if it is what it is said
// to be and allowed.
func TestInherit(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	foreign := netip.MustParseAddrPort("203.0.113.1:1")
	tests := map[string]struct {
		lie  func(*inherited)
		want error // nil: it goes on
	}{
		"as it was":      {func(*inherited) {}, nil},
		"another source": {func(i *inherited) { i.Initiator = foreign }, errForeign},
		"another port":   {func(i *inherited) { i.Initiator = netip.AddrPortFrom(i.Initiator.Addr(), 1) }, socket.ErrInherited},
		"another target": {func(i *inherited) { i.Target = netip.AddrPortFrom(i.Target.Addr(), 1) }, socket.ErrInherited},
		"the other way":  {func(i *inherited) { i.Ends[0], i.Ends[1] = i.Ends[1], i.Ends[0] }, socket.ErrInherited},
		"a dead one": {func(i *inherited) {
			_ = i.guest.SetLinger(0)
			i.guest.Close()
		}, socket.ErrInherited},
		"forbidden target": {func(i *inherited) { i.Target = netip.MustParseAddrPort("127.0.0.1:80") }, new(policy.Denied)},
	}
	for name, tt := range tests {
		for _, f := range families() {
			t.Run(name+" "+f.name, func(t *testing.T) {
				w := newWorld(t, withGuests(t))
				i := newInherited(t, f)
				tt.lie(i)
				entry, err := w.flows.Restore(i.Info)
				if err != nil {
					t.Fatal(err)
				}
				err = w.shortcut.Inherit(entry, &i.Passed)
				var denied *policy.Denied
				if !errors.Is(err, tt.want) && !(errors.As(tt.want, &denied) && errors.As(err, &denied)) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if err != nil {
					i.Reset()
					entry.Close()
					return
				}
				if w.shortcut.bonds.find(entry.Key) != entry {
					t.Error("its segments are not known")
				}
				go func() { // ends with the connection
					echo(i.host)
					i.host.CloseWrite()
				}()
				if _, err := i.guest.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				i.guest.CloseWrite()
				if b, err := io.ReadAll(i.guest); string(b) != "hello" || err != nil {
					t.Errorf("got %q and %v, want hello", b, err)
				}
				settle.Until(t, "the flow's end", func() bool { return w.flows.Len(flow.TCP) == 0 })
			})
		}
	}
}
