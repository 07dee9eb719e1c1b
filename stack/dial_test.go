package stack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"taproot/test/settle"
)

// newGuestWire is newWire with a guest that has not sent anything yet, and
// serves what the handlers say.
func newGuestWire(t *testing.T, guest func(*Request)) (wire, context.Context) {
	t.Helper()
	w := newWire(t, offloads["offloads"], 1500, func(_, g *Stack) {
		if guest != nil {
			g.HandleTCP(guest)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), settle.Patience)
	t.Cleanup(cancel)
	return w, ctx
}

// TestDial has a client's address that is the gateway's for no guest.
func TestDial(t *testing.T) {
	for _, tt := range []struct{ name, source, destination string }{
		{"ipv4", "203.0.113.7:40000", "10.0.2.100:80"},
		{"ipv6", "[2001:db8::7]:40000", "[fd00::64]:80"},
		{"any port", "203.0.113.7:0", "10.0.2.100:80"},
		{"from the gateway", "10.0.2.2:40000", "10.0.2.100:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source, destination := netip.MustParseAddrPort(tt.source), netip.MustParseAddrPort(tt.destination)
			seen := make(chan netip.AddrPort, 1)
			var wg sync.WaitGroup
			defer wg.Wait()
			w, ctx := newGuestWire(t, func(r *Request) {
				wg.Add(1)
				defer wg.Done()
				seen <- r.Source
				c, err := r.Accept()
				if err != nil {
					t.Errorf("accept: %v", err)
					return
				}
				conn := c.NetConn()
				defer conn.Close()
				if _, err := io.Copy(conn, conn); err != nil {
					t.Errorf("echo: %v", err)
				}
			})
			c, err := w.gateway.Dial(ctx, source, destination)
			if err != nil {
				t.Fatal(err)
			}
			if got := <-seen; got.Addr() != source.Addr() || source.Port() != 0 && got != source {
				t.Errorf("the guest sees: got %v, want %v", got, source)
			}
			echo(t, c)
		})
	}
}

// echo sends a word to a guest that echoes, and waits until it comes back.
func echo(t *testing.T, c *Conn) {
	t.Helper()
	conn := c.NetConn()
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "hello" {
		t.Errorf("echo: got %q and error %v, want hello", b, err)
	}
}

func TestDialRefused(t *testing.T) {
	w, ctx := newGuestWire(t, (*Request).Refuse)
	for range 2 { // with and without knowing the guest's hardware address
		_, err := w.gateway.Dial(ctx, netip.MustParseAddrPort("203.0.113.7:1"), netip.AddrPortFrom(guest4, 80))
		if err != syscall.ECONNREFUSED {
			t.Errorf("got %v, want %v", err, syscall.ECONNREFUSED)
		}
	}
}

// TestDialSilent has a guest that knows no answer, until the caller has
// enough.
func TestDialSilent(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(context.Context) (context.Context, context.CancelFunc)
		want error
	}{
		{"cancelled", context.WithCancel, context.Canceled},
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		}, syscall.ETIMEDOUT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(chan struct{}, 8)
			w, ctx := newGuestWire(t, func(r *Request) {
				r.Drop()
				asked <- struct{}{}
			})
			ctx, cancel := tt.end(ctx)
			defer cancel()
			if tt.name == "cancelled" {
				go func() {
					<-asked
					cancel()
				}()
			}
			if _, err := w.gateway.Dial(ctx, netip.MustParseAddrPort("203.0.113.7:1"), netip.AddrPortFrom(guest4, 80)); err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			await(t, "the end of the endpoint", w.noConnections())
		})
	}
}

// noConnections is closed when the gateway has no endpoints any more.
func (w wire) noConnections() <-chan struct{} {
	return until(func() bool { return len(w.gateway.stack.RegisteredEndpoints()) == 0 })
}

func TestDialAddressInUse(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	w, ctx := newGuestWire(t, func(r *Request) {
		wg.Add(1)
		defer wg.Done()
		if c, err := r.Accept(); err == nil {
			conn := c.NetConn()
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	})
	source := netip.MustParseAddrPort("203.0.113.7:40000")
	first, err := w.gateway.Dial(ctx, source, netip.AddrPortFrom(guest4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := w.gateway.Dial(ctx, source, netip.AddrPortFrom(guest4, 80)); err != syscall.EADDRINUSE {
		t.Errorf("the same pair: got %v, want %v", err, syscall.EADDRINUSE)
	}
	other, err := w.gateway.Dial(ctx, source, netip.AddrPortFrom(guest4, 81))
	if err != nil {
		t.Fatalf("another pair with the same source: %v", err)
	}
	other.Close()
}

func TestDialRefusesAddresses(t *testing.T) {
	w, ctx := newGuestWire(t, nil)
	for _, tt := range []struct{ source, destination string }{
		{"203.0.113.7:1", "[fd00::64]:80"},
		{"0.0.0.0:1", "10.0.2.100:80"},
		{"[ff02::1]:1", "[fd00::64]:80"},
		{"203.0.113.7:1", "10.0.2.100:0"},
		{"[::ffff:1.2.3.4]:1", "[fd00::64]:80"},
	} {
		if _, err := w.gateway.Dial(ctx, netip.MustParseAddrPort(tt.source), netip.MustParseAddrPort(tt.destination)); err != syscall.EINVAL {
			t.Errorf("%v to %v: got %v, want %v", tt.source, tt.destination, err, syscall.EINVAL)
		}
	}
	if _, err := w.gateway.Dial(ctx, netip.AddrPort{}, netip.AddrPort{}); err != syscall.EINVAL {
		t.Errorf("no addresses: got %v, want %v", err, syscall.EINVAL)
	}
}

// TestDialNobody has nobody at the address who would tell of himself.
func TestDialNobody(t *testing.T) {
	w, ctx := newGuestWire(t, nil)
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := w.gateway.Dial(ctx, netip.MustParseAddrPort("203.0.113.7:1"), netip.MustParseAddrPort("10.0.2.101:80"))
	if !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("got %v, want %v", err, syscall.ETIMEDOUT)
	}
	select {
	case <-w.gateway.link.Met():
		t.Error("the guest answered for another address")
	default:
	}
}
