package portfwd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
)

func TestBindError(t *testing.T) {
	for _, tt := range []struct {
		err        *BindError
		text, hint string
	}{
		{
			&BindError{Proto: flow.TCP, Port: 80, Err: os.NewSyscallError("bind", syscall.EACCES)},
			"publish :80/tcp: bind: permission denied",
			"sysctl net.ipv4.ip_unprivileged_port_start=80",
		},
		{
			&BindError{Proto: flow.UDP, Port: 8080, Addr: guest4, Err: os.NewSyscallError("bind", syscall.EINVAL)},
			"publish 10.0.2.100:8080/udp: bind: invalid argument", "",
		},
		{
			&BindError{Proto: flow.TCP, Port: 80, Err: os.NewSyscallError("bind", syscall.EADDRINUSE), Holder: "nginx (pid 12)"},
			"publish :80/tcp: bind: address already in use: held by nginx (pid 12)", "",
		},
		{
			&BindError{Proto: flow.TCP, Port: 80, Err: syscall.EMFILE, need: 4096},
			"publish :80/tcp: too many open files", "ulimit -n 4096",
		},
	} {
		if got := tt.err.Error(); got != tt.text {
			t.Errorf("got %v, want %v", got, tt.text)
		}
		if got := tt.err.Hint(); got != tt.hint {
			t.Errorf("hint: got %q, want %q", got, tt.hint)
		}
	}
}

// TestBindErrorAbsent wants the host's addresses to be told to who names another.
func TestBindErrorAbsent(t *testing.T) {
	table, _ := newRecorded(t)
	_, err := table.Add(t.Context(), Rule{Listen: netip.MustParseAddrPort("192.0.2.1:80")})
	var bind *BindError
	if !errors.As(err, &bind) || !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Fatalf("got %v, want a BindError with %v", err, syscall.EADDRNOTAVAIL)
	}
	if got := bind.Hint(); !strings.Contains(got, "127.0.0.1") {
		t.Errorf("hint: got %q, want the host's addresses", got)
	}
}

// TestHolder wants to know who has a port.
func TestHolder(t *testing.T) {
	us := fmt.Sprintf("(pid %d)", os.Getpid())
	for _, tt := range []struct {
		name, network, address string
		listen                 netip.Addr
	}{
		{"IPv4", "tcp4", "127.0.0.1:0", netip.MustParseAddr("127.0.0.1")},
		{"IPv6", "tcp6", "[::1]:0", netip.IPv6Loopback()},
		{"all, held on one", "tcp4", "127.0.0.1:0", netip.Addr{}},
		{"one, held on all", "tcp", "[::]:0", netip.MustParseAddr("127.0.0.1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.Listen(tt.network, tt.address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			table, _ := newRecorded(t)
			port := l.Addr().(*net.TCPAddr).AddrPort().Port()
			for _, d := range []Direction{Inbound, Outbound} {
				if d == Outbound && !tt.listen.IsLoopback() {
					continue
				}
				_, err := table.Add(t.Context(), Rule{Direction: d, Listen: netip.AddrPortFrom(tt.listen, port)})
				var bind *BindError
				if !errors.As(err, &bind) || !strings.HasSuffix(bind.Holder, us) {
					t.Errorf("%v: got %v, want it to name us, %s", d, err, us)
				}
			}
		})
	}
}

// TestHolderUDP is TestHolder for UDP, where a client may have the port.
func TestHolderUDP(t *testing.T) {
	c := newClient(t, netip.MustParseAddrPort("127.0.0.1:9"))
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	table, _ := newRecorded(t)
	_, err := table.Add(t.Context(), Rule{Proto: flow.UDP, Listen: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})
	var bind *BindError
	if want := fmt.Sprintf("(pid %d)", os.Getpid()); !errors.As(err, &bind) || !strings.HasSuffix(bind.Holder, want) {
		t.Errorf("got %v, want it to name us, %s", err, want)
	}
}

// TestHolderRule wants a rule that has the port to be named rather than us.
func TestHolderRule(t *testing.T) {
	table, _ := newRecorded(t)
	id, err := table.Add(t.Context(), Rule{Local: true, Target: port(80)})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Rule{{Local: true}, {}, {Listen: addrPort("[::1]:1")}} {
		r.Listen = netip.AddrPortFrom(r.Listen.Addr(), table.List()[0].Rule.Listen.Port())
		_, err := table.Add(t.Context(), r)
		var bind *BindError
		if want := fmt.Sprintf("rule %d", id); !errors.As(err, &bind) || bind.Holder != want {
			t.Errorf("%v: got %v, want it to name %s", r, err, want)
		}
	}
}

// TestHolderOthers wants a name for who cannot be looked into, too.
func TestHolderOthers(t *testing.T) {
	if got, leaving := (owned{}).holder(); got != "a connection that has just ended" || leaving {
		t.Errorf("a connection: got %q and %v", got, leaving)
	}
	const somebody = 1 << 30
	if got, leaving := (owned{inode: 1<<32 - 1, uid: somebody}).holder(); got != fmt.Sprint("a process of uid ", somebody) || leaving {
		t.Errorf("somebody else: got %q and %v", got, leaving)
	}
}

// TestHolderLeaves has a port that no process has, as when its owner was killed and
// is not gone yet: its only descriptor is on its way. Who publishes it waits.
func TestHolderLeaves(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	way, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(way[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l.Close()
	released := &onDebug{do: sync.OnceFunc(func() { // what is on its way is closed with it
		unix.Close(way[0])
		unix.Close(way[1])
	})}
	defer released.do()
	table := NewTable(TableConfig{Carrier: &recorder{}, Sockets: socketsHere, Log: slog.New(released)})
	defer table.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if _, err := table.Add(t.Context(), Rule{Listen: at, Target: port(80)}); err != nil {
		t.Errorf("got %v, want the port when its owner has gone", err)
	}
}

// An onDebug is a slog.Handler that does something whenever it is told something.
type onDebug struct{ do func() }

func (h *onDebug) Enabled(context.Context, slog.Level) bool { return true }

func (h *onDebug) Handle(context.Context, slog.Record) error {
	h.do()
	return nil
}

func (h *onDebug) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h *onDebug) WithGroup(string) slog.Handler { return h }
