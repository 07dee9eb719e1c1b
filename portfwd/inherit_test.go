package portfwd

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/stack/flow"
	"taproot/test/settle"
)

// tcpEnds returns the two ends of a connection over the loopback; the first belongs to
// whoever wants it.
func tcpEnds(t *testing.T) (fd int, peer *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	peer.SetDeadline(time.Now().Add(settle.Patience))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	return fd, peer
}

// TestInherit goes on with a client that another process had, unless the socket in the
// guest is not what it is said to be.
func TestInherit(t *testing.T) {
	for name, refused := range map[string]error{"it goes on": nil, "it is not the guest's": os.ErrInvalid} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDirect(echoing)
			d.inherit = refused
			b := newDirectBench(t, flow.Config{}, d)
			f, err := b.flows.Restore(flow.Info{
				ID: 5, Way: flow.Shortcut, Rule: 1, Inbound: true, Opened: time.Now(),
				Key: flow.Key{Proto: flow.TCP, Initiator: netip.AddrPortFrom(gateway4, 1), Target: netip.AddrPortFrom(guest4, 80)},
			})
			if err != nil {
				t.Fatal(err)
			}
			var p relay.Passed
			var client *net.TCPConn
			p.Ends[0], client = tcpEnds(t)
			if p.Ends[1], err = echoing(netip.AddrPort{}, netip.AddrPort{}); err != nil {
				t.Fatal(err)
			}
			if err := b.publisher.Inherit(f, &p); !errors.Is(err, refused) {
				t.Fatalf("got %v, want %v", err, refused)
			}
			if refused != nil {
				p.Reset()
				f.Close()
				return
			}
			wantEcho(t, client)
			settle.Until(t, "the flow's end", func() bool { return b.flows.Len(flow.TCP) == 0 })
			if n := d.ended.Load(); n != 1 {
				t.Errorf("ended %d times, want once", n)
			}
		})
	}
}
