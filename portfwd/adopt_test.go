package portfwd

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
)

// fileOf returns the socket of a listener as somebody would pass it, until the
// test ends.
func fileOf(t *testing.T, c interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// listening returns a TCP listener as somebody would pass it, and its address.
func listening(t *testing.T, network, address string) (*os.File, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fileOf(t, l.(*net.TCPListener)), l.Addr().(*net.TCPAddr).AddrPort()
}

func TestAdopt(t *testing.T) {
	for _, tt := range []struct{ name, network, address, client string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "::1"},
		{"all", "tcp", ":0", "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, flow.Config{})
			f, at := listening(t, tt.network, tt.address)
			r := Rule{Proto: flow.TCP, Target: port(80)}
			id, err := b.table.Adopt(t.Context(), r, f)
			if err != nil {
				t.Fatal(err)
			}
			client := netip.AddrPortFrom(netip.MustParseAddr(tt.client), at.Port())
			wantEcho(t, dial(t, client))
			if got := b.table.List()[0]; got.Rule.Listen.Port() != at.Port() || got.Rule.Listen.Addr().IsUnspecified() || got.Bound != 1 {
				t.Errorf("got %+v, want it to listen on %v", got, at)
			}
			if _, err := b.table.Adopt(t.Context(), r, f); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("again: got %v, want %v", err, syscall.EADDRINUSE)
			}
			b.kill()
			b.start(t)
			if err := b.table.Republish(); err != nil {
				t.Fatal(err)
			}
			wantEcho(t, dial(t, client))
			if err := b.table.Remove(id); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAdoptUDP(t *testing.T) {
	b := newBench(t, flow.Config{})
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := b.table.Adopt(t.Context(), Rule{Proto: flow.UDP}, fileOf(t, c)); err != nil {
		t.Fatal(err)
	}
	client := newClient(t, c.LocalAddr().(*net.UDPAddr).AddrPort())
	client.Write([]byte("question"))
	b.answer(t, b.wantAsked(t, "question"), "answer")
	wantAnswer(t, client, "answer")
}

// TestAdoptRefuses wants what cannot be published to be said, and nothing to be
// left of it.
func TestAdoptRefuses(t *testing.T) {
	listener, at := listening(t, "tcp4", "127.0.0.1:0")
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	deaf := os.NewFile(uintptr(fd), "deaf")
	defer deaf.Close()
	path, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.TempDir() + "/socket", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer path.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	connected := newClient(t, netip.MustParseAddrPort("127.0.0.1:9"))
	for _, tt := range []struct {
		name string
		rule Rule
		file *os.File
	}{
		{"another address", Rule{Listen: netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())}, listener},
		{"another port", Rule{Listen: netip.AddrPortFrom(at.Addr(), at.Port()+1)}, listener},
		{"another protocol", Rule{Proto: flow.UDP}, listener},
		{"two ports", Rule{Ports: 2}, listener},
		{"outbound", Rule{Direction: Outbound}, listener},
		{"not listening", Rule{}, deaf},
		{"connected", Rule{Proto: flow.UDP}, fileOf(t, connected)},
		{"Unix", Rule{}, fileOf(t, path)},
		{"no socket", Rule{}, null},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, _ := newRecorded(t)
			if _, err := table.Adopt(t.Context(), tt.rule, tt.file); !errors.Is(err, ErrSocket) {
				t.Errorf("got %v, want %v", err, ErrSocket)
			}
			table.mu.Lock()
			defer table.mu.Unlock()
			if len(table.entries) != 0 || table.sockets != 0 {
				t.Errorf("left: %d rules, %d sockets", len(table.entries), table.sockets)
			}
		})
	}
}

// TestPassed wants rules to use sockets that the caller of the program opened,
// one at a time.
func TestPassed(t *testing.T) {
	one, at := listening(t, "tcp4", "127.0.0.1:0")
	all, any := listening(t, "tcp", ":0")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	table := NewTable(TableConfig{Carrier: &recorder{}, Passed: []*os.File{null, one, all}})
	defer table.Close()
	for _, r := range []Rule{{Listen: at}, {Listen: netip.AddrPortFrom(netip.Addr{}, any.Port())}} {
		for range 2 {
			id, err := table.Add(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := table.Add(t.Context(), r); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("twice: got %v, want %v", err, syscall.EADDRINUSE)
			}
			if err := table.Remove(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := table.Add(t.Context(), Rule{Listen: netip.AddrPortFrom(netip.IPv6Unspecified(), any.Port())}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("of IPv6 only: got %v, want %v", err, syscall.EADDRINUSE)
	}
}
