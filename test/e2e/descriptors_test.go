package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// newFew starts an instance that may have so many descriptors.
func newFew(t *testing.T, l *lab.Lab, descriptors int, options ...string) *web {
	t.Helper()
	args := append([]string{"-c", fmt.Sprintf("ulimit -n %d; exec \"$@\"", descriptors), "sh", l.TaprootPath(), "run", "--name=web"}, options...)
	c := l.User("sh", append(args, "--", "sh")...)
	c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
	return newWebOf(l, startShell(t, c))
}

// TestDescriptorsKept opens more connections than an engine has descriptors for: the
// others are refused, while connections that are there, names and published ports go
// on, and when they end there are new ones.
func TestDescriptorsKept(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		const few = 128
		address := join(lab.Outside4, serveTCP(t, l.Outside, echo))
		datagrams := join(lab.Outside4, serveUDPEcho(t, l.Outside, lab.Outside4+":0"))
		serveDNS(t, l.Outside, lab.Outside4, "outside")
		w := newFew(t, l, few, options...)
		guest := networkOf(t, l, w.shell)
		behaved := speak(t, guest, "pingpong", address)
		before := behaved.number()

		held, refused := hold(t, guest, address, 2*few)
		if len(held) == 0 || refused == 0 {
			t.Fatalf("got %d connections and %d refused, want both", len(held), refused)
		}
		wantProhibited(t, guest, datagrams)
		wantName(t, guest, 1)
		served := w.listenInGuest(echo)
		w.ctl("publish", fmt.Sprintf("127.0.0.1:9090:%d", served))
		if err := callPublished(l.Host, "127.0.0.1:9090"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("client of a published port: got %v, want it reset", err)
		}
		if got := w.limit("descriptors"); got.Refused < float64(refused) || got.Now >= few {
			t.Errorf("descriptors: got %+v, want %d refused at least, and some left", got, refused)
		}
		lab.Eventually(t, "the connection beside goes on", func() bool { return behaved.number() >= before+10 })
		t.Logf("%d connections, %d refused, %+v", len(held), refused, w.limit("descriptors"))

		for _, c := range held {
			c.Close()
		}
		lab.Eventually(t, "others are connected", func() bool {
			return guest.Program("connect", address).MustRun() == "connected\n"
		})
		lab.Eventually(t, "published ports are served", func() bool { return callPublished(l.Host, "127.0.0.1:9090") == nil })
	})
}

// callPublished talks to a published port, and returns the error of what does not come back.
func callPublished(n *lab.Namespace, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return talk(c)
}

// hold opens up to most connections, which are the caller's, and tells how many were refused.
func hold(t *testing.T, n *lab.Namespace, address string, most int) (held []net.Conn, refused int) {
	t.Helper()
	for range most {
		ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
		c, err := n.Dial(ctx, "tcp", address)
		cancel()
		switch {
		case err == nil:
			t.Cleanup(func() { c.Close() })
			held = append(held, c)
		case errors.Is(err, syscall.ECONNREFUSED):
			refused++
		default:
			t.Fatalf("got %v, want it connected or refused", err)
		}
	}
	return held, refused
}

// wantProhibited wants a new flow of UDP refused by ICMP's "administratively
// prohibited", of which the kernel makes EHOSTUNREACH (RFC 1812 §5.2.7.1).
func wantProhibited(t *testing.T, n *lab.Namespace, address string) {
	t.Helper()
	c, err := n.Dial(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(lab.Patience))
	if _, err = c.Write([]byte("x")); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("datagram: got %v, want %v", err, syscall.EHOSTUNREACH)
	}
}

// wantName wants a query for a name of its own answered.
func wantName(t *testing.T, n *lab.Namespace, number uint32) {
	t.Helper()
	c, err := n.Dial(t.Context(), "udp", join(resolver4, 53))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const headers = 20 + 8 // of IPv4 and UDP
	if _, err := c.Write(dnsFrame(number)[headers:]); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(lab.Patience))
	if _, err := c.Read(make([]byte, 512)); err != nil {
		t.Errorf("name: got %v, want an answer", err)
	}
}
