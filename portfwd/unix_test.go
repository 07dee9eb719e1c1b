package portfwd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// dialUnix connects a client to a Unix socket.
func dialUnix(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(settle.Patience))
	return c
}

// serveUnix listens at a path until the test ends, and echoes.
func serveUnix(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
}

// A streamConn is a connection that can be half-closed.
type streamConn interface {
	net.Conn
	CloseWrite() error
}

// wantBulk sends much, and wants it back in order and with its end.
func wantBulk(t *testing.T, c streamConn) {
	t.Helper()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		c.Write(want)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); !bytes.Equal(got, want) || err != nil {
		t.Errorf("got %d bytes, %v, want %d and the same", len(got), err, len(want))
	}
}

func TestUnixToGuest(t *testing.T) {
	b := newBench(t, flow.Config{})
	path := filepath.Join(t.TempDir(), "web.sock")
	e := b.add(t, Rule{ListenUnix: path, Target: port(80)})
	wantBulk(t, dialUnix(t, path))
	d := <-b.guest.dialed
	if d.source.Addr() != gateway4 || d.source.Port() < dynamicPort || d.target != addrPort("10.0.2.100:80") {
		t.Errorf("got %+v, want from the gateway to the guest's port 80", d)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != os.ModeSocket|unixMode {
		t.Errorf("got %v, %v, want mode %o", st, err, unixMode)
	}
	if e.Bound != 1 || e.Rule.ListenUnix != path {
		t.Errorf("entry: got %+v", e)
	}
	if err := b.table.Remove(e.ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the rule: got %v, want no file", err)
	}
}

// TestUnixBothSides leads from sockets and ports to sockets of the other side,
// the guest's being below a root of its own.
func TestUnixBothSides(t *testing.T) {
	b := newBench(t, flow.Config{})
	host, guest := t.TempDir(), b.root
	serveUnix(t, filepath.Join(guest, "server.sock"))
	serveUnix(t, filepath.Join(host, "server.sock"))
	port := serveEcho(t, "127.0.0.1:0")

	b.add(t, Rule{ListenUnix: filepath.Join(host, "in.sock"), TargetUnix: "/server.sock"})
	wantBulk(t, dialUnix(t, filepath.Join(host, "in.sock")))
	e := b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/server.sock"})
	wantBulk(t, dial(t, e.at("127.0.0.1")))

	b.add(t, Rule{Direction: Outbound, ListenUnix: "/out.sock", TargetUnix: filepath.Join(host, "server.sock")})
	wantBulk(t, dialUnix(t, filepath.Join(guest, "out.sock")))
	b.add(t, Rule{Direction: Outbound, ListenUnix: "/port.sock", Target: port})
	wantBulk(t, dialUnix(t, filepath.Join(guest, "port.sock")))
	e = b.add(t, Rule{Direction: Outbound, TargetUnix: filepath.Join(host, "server.sock")})
	wantBulk(t, dial(t, e.at("127.0.0.1")))
	settle.Until(t, "the flows' end", func() bool { return b.flows.Len(flow.TCP) == 0 })
}

// TestUnixReset: a client whose target is not there sees its connection end.
func TestUnixReset(t *testing.T) {
	b := newBench(t, flow.Config{})
	path := filepath.Join(t.TempDir(), "in.sock")
	b.add(t, Rule{ListenUnix: path, TargetUnix: "/nobody.sock"})
	if _, err := dialUnix(t, path).Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want the end", err)
	}
	b.guest.refuse(syscall.ECONNREFUSED)
	e := b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/nobody.sock"})
	wantRefused(t, e.at("127.0.0.1"))
}

// TestUnixBacklog has clients wait for a program that is slow to accept.
func TestUnixBacklog(t *testing.T) {
	b := newBench(t, flow.Config{})
	path := filepath.Join(b.root, "slow.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/slow.sock"})
	var clients []*net.TCPConn
	for range 10 {
		clients = append(clients, dial(t, e.at("127.0.0.1")))
	}
	settle.Until(t, "the backlog is full", func() bool { return b.publisher.Stats.Connected.Load() >= 2 })
	go func() {
		for range clients {
			if c, err := l.Accept(); err == nil {
				c.Write([]byte("served"))
				c.Close()
			}
		}
	}()
	for i, c := range clients {
		if got, err := io.ReadAll(c); string(got) != "served" || err != nil {
			t.Errorf("client %d: got %q, %v, want to be served", i, got, err)
		}
	}
}

// TestUnixEscape: no link of the guest's leads out of its root.
func TestUnixEscape(t *testing.T) {
	b := newBench(t, flow.Config{})
	outside := filepath.Join(t.TempDir(), "host.sock")
	serveUnix(t, outside)
	for name, to := range map[string]string{
		"absolute": outside,
		"relative": "../../../../../../../../../../.." + outside,
		"magic":    "/proc/self/root" + outside,
	} {
		if err := os.Symlink(to, filepath.Join(b.root, name)); err != nil {
			t.Fatal(err)
		}
		e := b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/" + name})
		if f, err := b.table.ConnectUnix(e.ID); err == nil {
			f.Close()
			t.Errorf("%s: connected to a socket of the host", name)
		}
		if _, err := b.table.Add(t.Context(), Rule{Direction: Outbound, ListenUnix: "/" + name, Target: port(80)}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: listen: got %v, want %v", name, err, syscall.EADDRINUSE)
		}
	}
	// A link that leads to a socket inside is the guest's business.
	serveUnix(t, filepath.Join(b.root, "inside.sock"))
	if err := os.Symlink("/inside.sock", filepath.Join(b.root, "link")); err != nil {
		t.Fatal(err)
	}
	wantBulk(t, dial(t, b.add(t, Rule{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/link"}).at("127.0.0.1")))
}

// TestUnixParent wants ".." behind a link to mean what it means to the kernel.
func TestUnixParent(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a/b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	newBench(t, flow.Config{}).add(t, Rule{ListenUnix: dir + "/link/../sock", Target: port(80)})
	if _, err := os.Lstat(filepath.Join(dir, "a", "sock")); err != nil {
		t.Error(err)
	}
}

// TestUnixTaken: what is alive, or no socket, is left alone; what is dead is
// not in the way.
func TestUnixTaken(t *testing.T) {
	table, _ := newRecorded(t)
	dir := t.TempDir()
	living, dead, file, missing := filepath.Join(dir, "living"), filepath.Join(dir, "dead"), filepath.Join(dir, "file"), filepath.Join(dir, "no", "sock")
	serveUnix(t, living)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: dead})
		unix.Close(fd)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, err, hint string
		cause           error
	}{
		{dead, "", "", nil},
		{living, "publish unix:" + living + ": address already in use", "to see who listens there: ss -xlp src " + living, syscall.EADDRINUSE},
		{dead, "publish unix:" + dead + ": address already in use", "to see who listens there: ss -xlp src " + dead, syscall.EADDRINUSE},
		{file, "publish unix:" + file + ": not a socket: address already in use", "that is a file: name a path where nothing is", syscall.EADDRINUSE},
		{missing, "publish unix:" + missing + ": open " + filepath.Dir(missing) + ": no such file or directory", "mkdir -p " + filepath.Dir(missing), syscall.ENOENT},
	} {
		_, err := table.Add(t.Context(), Rule{ListenUnix: tt.path, Target: port(80)})
		hint := ""
		if u := (*UnixError)(nil); errors.As(err, &u) {
			hint = u.Hint()
		}
		if text(err) != tt.err || hint != tt.hint || tt.cause != nil && !errors.Is(err, tt.cause) {
			t.Errorf("%s: got %q, hint %q, want %q, hint %q", tt.path, text(err), hint, tt.err, tt.hint)
		}
	}
	if got, err := os.ReadFile(file); string(got) != "text" || err != nil {
		t.Errorf("the file: got %q, %v", got, err)
	}
}

// TestUnixReplaced: a file that has taken the name meanwhile stays.
func TestUnixReplaced(t *testing.T) {
	table, _ := newRecorded(t)
	path := filepath.Join(t.TempDir(), "sock")
	id, err := table.Add(t.Context(), Rule{ListenUnix: path, Target: port(80)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	serveUnix(t, path)
	if err := table.Remove(id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("another's socket: got %v, want it there", err)
	}
}

// TestUnixWithoutGuest: where nobody knows the guest's files, no rule promises
// them; and nobody connects for a rule that has no path.
func TestUnixWithoutGuest(t *testing.T) {
	table, _ := newRecorded(t)
	for _, r := range []Rule{
		{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/a"},
		{Direction: Outbound, ListenUnix: "/a", Target: port(80)},
	} {
		if _, err := table.Add(t.Context(), r); !errors.Is(err, errNoGuest) {
			t.Errorf("%v: got %v, want %v", r, err, errNoGuest)
		}
	}
	id, err := table.Add(t.Context(), Rule{Listen: addrPort("127.0.0.1:0"), Target: port(80)})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []int{id, id + 1} {
		if _, err := table.ConnectUnix(id); !errors.Is(err, ErrNoRule) {
			t.Errorf("rule %d: got %v, want %v", id, err, ErrNoRule)
		}
	}
}
