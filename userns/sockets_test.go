package userns

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func tcp(address string) Socket {
	return Socket{Family: familyOf(address), Type: unix.SOCK_STREAM, Bind: netip.MustParseAddrPort(address), Listen: true}
}

func udp(address string) Socket {
	return Socket{Family: familyOf(address), Type: unix.SOCK_DGRAM, Bind: netip.MustParseAddrPort(address)}
}

func familyOf(address string) int { return family(netip.MustParseAddrPort(address).Addr()) }

// loopbackUp opens a target whose loopback is up.
func loopbackUp(t *testing.T) *Namespace {
	t.Helper()
	n := openTarget(t, Target{PID: newTarget(t, "answer", rootTarget()).pid})
	if _, _, err := n.Attach(context.Background(), Setup{}); err != nil {
		t.Fatal(err)
	}
	return n
}

// raw calls f with a socket's descriptor, which stays as it is.
func raw(t testing.TB, f *os.File, call func(fd int) error) error {
	t.Helper()
	c, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := c.Control(func(fd uintptr) { err = call(int(fd)) }); e != nil {
		t.Fatal(e)
	}
	return err
}

// TestSockets wants sockets of all kinds, at low ports too, that work.
func TestSockets(t *testing.T) {
	if !asUser(t) {
		return
	}
	n := loopbackUp(t)
	files, err := n.Sockets(context.Background(), []Socket{
		tcp("127.0.0.1:80"), tcp("[::1]:80"), udp("127.0.0.1:53"), udp("[::1]:53"),
		{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_SOCK_DIAG},
		{Family: unix.AF_INET, Type: unix.SOCK_STREAM}, {Family: unix.AF_INET6, Type: unix.SOCK_STREAM},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	for i, want := range []string{"127.0.0.1:80", "[::1]:80", "127.0.0.1:53", "[::1]:53"} {
		if files[i].Name() != want {
			t.Errorf("name: got %q, want %q", files[i].Name(), want)
		}
	}
	for _, f := range files {
		if err := raw(t, f, func(fd int) error {
			flags, err1 := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			closed, err2 := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if flags&unix.O_NONBLOCK == 0 || closed&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s: got flags %#x %#x, want non-blocking and close-on-exec", f.Name(), flags, closed)
			}
			return errors.Join(err1, err2)
		}); err != nil {
			t.Error(err)
		}
	}
	for i, to := range []unix.Sockaddr{
		&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 80}, &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: 80},
	} {
		err := raw(t, files[5+i], func(fd int) error { return unix.Connect(fd, to) })
		if err != nil && err != unix.EINPROGRESS {
			t.Errorf("connect to %s: %v", files[i].Name(), err)
		}
		var accepted int
		eventually(t, "a connection", func() bool {
			err = raw(t, files[i], func(fd int) (err error) {
				accepted, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC)
				return err
			})
			return err != unix.EAGAIN
		})
		if err != nil {
			t.Errorf("accept at %s: %v", files[i].Name(), err)
			continue
		}
		unix.Close(accepted)
	}
}

// TestSocketsBothFamilies wants V6Only to decide, whatever the namespace's
// default is.
func TestSocketsBothFamilies(t *testing.T) {
	if !asUser(t) {
		return
	}
	n := loopbackUp(t)
	both, only := tcp("[::]:1000"), tcp("[::]:1001")
	only.V6Only = true
	files, err := n.Sockets(context.Background(), []Socket{both, only, tcp("0.0.0.0:1001")})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	if _, err := n.Sockets(context.Background(), []Socket{tcp("0.0.0.0:1000")}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("IPv4 beside both families: got %v, want %v", err, syscall.EADDRINUSE)
	}
}

// TestSocketsMany wants more sockets than one message carries, and either all or
// none.
func TestSocketsMany(t *testing.T) {
	if !asUser(t) {
		return
	}
	n := loopbackUp(t)
	var all []Socket
	for port := uint16(1); port <= 2*maxSockets+5; port++ {
		all = append(all, tcp(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()))
	}
	before := descriptorsOpen(t)
	files, err := n.Sockets(context.Background(), all)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		var name unix.Sockaddr
		if err := raw(t, f, func(fd int) (err error) {
			name, err = unix.Getsockname(fd)
			return err
		}); err != nil || name.(*unix.SockaddrInet4).Port != i+1 {
			t.Fatalf("socket %d: got %v and error %v", i, name, err)
		}
	}
	last := all[len(all)-1:]
	if _, err := n.Sockets(context.Background(), append(all[:0:0], tcp("127.0.0.1:2000"), last[0])); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port in use: got %v, want %v", err, syscall.EADDRINUSE)
	} else if !strings.HasPrefix(err.Error(), "bind 127.0.0.1:511: ") {
		t.Errorf("port in use: got %q, want the address in it", err)
	}
	closeFiles(files[:len(files)-1])
	if _, err := n.Sockets(context.Background(), all); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("last port in use: got %v, want %v", err, syscall.EADDRINUSE)
	}
	files[len(files)-1].Close()
	if got := descriptorsOpen(t); got != before {
		t.Errorf("descriptors: got %d, want %d", got, before)
	}
	if got := children(t); len(got) != 1 {
		t.Errorf("children: got %v, want the target", got)
	}
}

func TestSocketsErrors(t *testing.T) {
	if !asUser(t) {
		return
	}
	n := loopbackUp(t)
	for _, tt := range []struct {
		name   string
		socket Socket
		want   string
	}{
		{"family", Socket{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Bind: netip.MustParseAddrPort("[::1]:80")},
			"bind [::1]:80: address family not supported"},
		{"no such family", Socket{Family: 63, Type: unix.SOCK_STREAM}, "socket of family 63"},
		{"address", tcp("192.0.2.1:80"), "bind 192.0.2.1:80: cannot assign requested address"},
		{"zone", tcp("[fe80::1%eth0]:80"), "zone is no number"},
		{"listen", Socket{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Listen: true}, "listen socket of family 2"},
	} {
		files, err := n.Sockets(context.Background(), []Socket{tcp("127.0.0.1:1"), tt.socket})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v and error %v, want %q in it", tt.name, files, err, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.Sockets(ctx, []Socket{tcp("127.0.0.1:1")}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
	}
}

// TestSocketsLimit runs out of descriptors on this side.
func TestSocketsLimit(t *testing.T) {
	if !asUser(t) {
		return
	}
	n := loopbackUp(t)
	var old, low unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low = old
	low.Cur = uint64(descriptorsOpen(t)) + 10
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	before := descriptorsOpen(t)
	list := make([]Socket, 20)
	for i := range list {
		list[i] = Socket{Family: unix.AF_INET, Type: unix.SOCK_STREAM}
	}
	for n2 := 1; n2 <= len(list); n2++ {
		files, err := n.Sockets(context.Background(), list[:n2])
		if err != nil && !errors.Is(err, syscall.EMFILE) {
			t.Errorf("%d sockets: got %v, want %v", n2, err, syscall.EMFILE)
		}
		if err == nil && len(files) != n2 {
			t.Errorf("%d sockets: got %d", n2, len(files))
		}
		closeFiles(files)
	}
	if got := descriptorsOpen(t); got != before {
		t.Errorf("descriptors: got %d, want %d", got, before)
	}
}

// descriptorsOpen counts this process's descriptors.
func descriptorsOpen(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestSocketPassed wants a socket that is not blocking and that the runtime's poller
// does not know.
func TestSocketPassed(t *testing.T) {
	if !asUser(t) {
		return
	}
	listener := tcp("127.0.0.1:80")
	listener.Passed = true
	files, err := loopbackUp(t).Sockets(context.Background(), []Socket{listener})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	if err := files[0].SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
		t.Errorf("deadline: got %v, want %v", err, os.ErrNoDeadline)
	}
	if err := raw(t, files[0], func(fd int) error {
		_, _, err := unix.Accept(fd)
		return err
	}); err != unix.EAGAIN {
		t.Errorf("accept: got %v, want %v", err, unix.EAGAIN)
	}
}

// TestSendSockets wants sockets at who was to get them, with the packet, and nothing
// but an error where they cannot be made or sent.
func TestSendSockets(t *testing.T) {
	if !asUser(t) {
		return
	}
	n := loopbackUp(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	one := Socket{Family: unix.AF_INET, Type: unix.SOCK_STREAM}
	for _, tt := range []struct {
		name    string
		sockets []Socket
		packet  string
		want    error
	}{
		{"as many as fit", slices.Repeat([]Socket{one}, maxSockets), "hello", nil},
		{"too many", slices.Repeat([]Socket{one}, maxSockets+1), "hello", syscall.EINVAL},
		{"no packet", []Socket{one}, "", syscall.EINVAL},
		{"an address that is not there", []Socket{tcp("192.0.2.1:80")}, "hello", syscall.EADDRNOTAVAIL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := n.SendSockets(context.Background(), tt.sockets, ours, []byte(tt.packet)); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			b, oob := make([]byte, 100), make([]byte, unix.CmsgSpace(4*maxSockets))
			size, oobn, _, _, err := unix.Recvmsg(fds[1], b, oob, unix.MSG_CMSG_CLOEXEC)
			if tt.want != nil {
				if err != unix.EAGAIN {
					t.Errorf("got %d bytes and error %v, want nothing", size, err)
				}
				return
			}
			got := rightsIn(oob[:oobn])
			defer closeAll(got)
			if err != nil || string(b[:size]) != tt.packet || len(got) != len(tt.sockets) {
				t.Errorf("got %q, %d sockets and error %v, want %q and %d", b[:size], len(got), err, tt.packet, len(tt.sockets))
			}
		})
	}
	theirs.Close()
	if err := n.SendSockets(context.Background(), []Socket{one}, ours, []byte("hello")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("nobody there: got %v, want %v", err, syscall.EPIPE)
	}
}
