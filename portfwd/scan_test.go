package portfwd

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
)

// newScanner returns a Scanner of this namespace.
func newScanner(t *testing.T) *Scanner {
	t.Helper()
	s := NewScanner(newDiag(t))
	t.Cleanup(func() { s.Close() })
	return s
}

// newDiag returns a socket that tells of those of the test's namespace.
func newDiag(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "sock_diag")
}

func TestScan(t *testing.T) {
	s := newScanner(t)
	for _, tt := range []struct {
		proto         flow.Proto
		network, addr string
		want          string
	}{
		{flow.TCP, "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{flow.TCP, "tcp4", "0.0.0.0:0", "0.0.0.0"},
		{flow.TCP, "tcp6", "[::1]:0", "::1"},
		{flow.TCP, "tcp", "[::]:0", "::"},
		{flow.UDP, "udp4", "127.0.0.1:0", "127.0.0.1"},
		{flow.UDP, "udp6", "[::]:0", "::"},
	} {
		t.Run(tt.network+" "+tt.addr, func(t *testing.T) {
			var closer io.Closer
			var port uint16
			if tt.proto == flow.TCP {
				l, err := net.Listen(tt.network, tt.addr)
				if err != nil {
					t.Fatal(err)
				}
				closer, port = l, l.Addr().(*net.TCPAddr).AddrPort().Port()
			} else {
				c, err := net.ListenPacket(tt.network, tt.addr)
				if err != nil {
					t.Fatal(err)
				}
				closer, port = c, c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			}
			want := Open{tt.proto, netip.MustParseAddr(tt.want), port}
			list, err := s.Scan(tt.proto)
			if err != nil || !slices.Contains(list, want) {
				t.Errorf("open: got %v, %v, want %v", list, err, want)
			}
			closer.Close()
			list, err = s.Scan(tt.proto)
			if err != nil || slices.Contains(list, want) {
				t.Errorf("closed: got %v, %v, want no %v", list, err, want)
			}
		})
	}
}

// TestScanConnected wants no sockets that are open for one peer only.
func TestScanConnected(t *testing.T) {
	s := newScanner(t)
	c := newClient(t, netip.MustParseAddrPort("127.0.0.1:9"))
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	list, err := s.Scan(flow.UDP)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		if o.Port == port {
			t.Errorf("got %v, want nothing of a connected socket", o)
		}
	}
}

// diagMessage is an answer of the kernel with one socket.
func diagMessage(typ uint16, seq uint32, data []byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(data))
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(data)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint32(b[8:], seq)
	return append(b, data...)
}

func socketData(family byte, port uint16, address netip.Addr) []byte {
	b := make([]byte, diagMessageLen)
	b[0] = family
	binary.BigEndian.PutUint16(b[4:], port)
	copy(b[8:], address.AsSlice())
	return b
}

func TestParseDiag(t *testing.T) {
	v4 := socketData(unix.AF_INET, 80, guest4)
	v6 := socketData(unix.AF_INET6, 443, guest6)
	first, second := Open{flow.TCP, guest4, 80}, Open{flow.TCP, guest6, 443}
	refused := binary.NativeEndian.AppendUint32(nil, uint32(0x100000000-int64(syscall.ENOENT)))
	for _, tt := range []struct {
		name string
		in   []byte
		want []Open
		err  error
	}{
		{"nothing", nil, nil, nil},
		{"two", append(diagMessage(diagByFamily, 1, v4), diagMessage(diagByFamily, 1, v6)...), []Open{first, second}, nil},
		{"the end", append(diagMessage(diagByFamily, 1, v4), diagMessage(unix.NLMSG_DONE, 1, make([]byte, 4))...), []Open{first}, io.EOF},
		{"another answer", append(diagMessage(unix.NLMSG_DONE, 7, nil), diagMessage(diagByFamily, 1, v4)...), []Open{first}, nil},
		{"refused", diagMessage(unix.NLMSG_ERROR, 1, refused), nil, syscall.ENOENT},
		{"short error", diagMessage(unix.NLMSG_ERROR, 1, nil), nil, syscall.EBADMSG},
		{"short socket", diagMessage(diagByFamily, 1, v4[:50]), nil, nil},
		{"other family", diagMessage(diagByFamily, 1, socketData(unix.AF_UNIX, 80, guest4)), nil, nil},
		{"no port", diagMessage(diagByFamily, 1, socketData(unix.AF_INET, 0, guest4)), nil, nil},
		{"cut", diagMessage(diagByFamily, 1, v4)[:60], nil, syscall.EBADMSG},
		{"length 0", make([]byte, 16), nil, syscall.EBADMSG},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []Open
			err := parseDiag(tt.in, 1, flow.TCP, func(o owned) { got = append(got, o.Open) })
			if !slices.Equal(got, tt.want) || !errors.Is(err, tt.err) {
				t.Errorf("got %v, %v, want %v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseDiag(f *testing.F) {
	f.Add(diagMessage(diagByFamily, 1, socketData(unix.AF_INET, 80, guest4)))
	f.Add(append(diagMessage(diagByFamily, 1, socketData(unix.AF_INET6, 80, guest6)), diagMessage(unix.NLMSG_DONE, 1, nil)...))
	f.Add(diagMessage(unix.NLMSG_ERROR, 1, make([]byte, 4)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var list []owned
		_ = parseDiag(b, 1, flow.TCP, func(o owned) { list = append(list, o) })
		if len(list) > len(b)/diagMessageLen {
			t.Errorf("got %d sockets out of %d bytes", len(list), len(b))
		}
		for _, o := range list {
			if !o.Addr.IsValid() || o.Port == 0 {
				t.Errorf("got %v, want an address and a port", o.Open)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	for _, p := range []flow.Proto{flow.TCP, flow.UDP} {
		b.Run(p.String(), func(b *testing.B) {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
			if err != nil {
				b.Fatal(err)
			}
			s := NewScanner(os.NewFile(uintptr(fd), "sock_diag"))
			defer s.Close()
			for b.Loop() {
				if _, err := s.Scan(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestConnections wants both ends of a connection, each as it sees it.
func TestConnections(t *testing.T) {
	s := newScanner(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at := func(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
		ours := Connection{at(c.LocalAddr()), at(c.RemoteAddr())}
		list, err := s.Connections(1 << 20)
		if err != nil || !slices.Contains(list, ours) || !slices.Contains(list, Connection{ours.Peer, ours.Local}) {
			t.Errorf("got %v, %v, want both ends of %v", list, err, ours)
		}
		if list, err := s.Connections(1); err != nil || len(list) != 1 {
			t.Errorf("limit of 1: got %v, %v", list, err)
		}
	}
}
