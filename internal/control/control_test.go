package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// forwards publish nothing, and remember what they were asked for. Host port
// 99 is always taken.
type forwards struct {
	mu sync.Mutex
	// +checklocks:mu
	list []Forward
	// +checklocks:mu
	last int
}

func (f *forwards) Add(_ context.Context, fwd Forward) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fwd.Host.Port() == 99 {
		return 0, fmt.Errorf("publish %v: %w", fwd.Host, syscall.EADDRINUSE)
	}
	f.last++
	fwd.ID = f.last
	f.list = append(f.list, fwd)
	return fwd.ID, nil
}

func (f *forwards) List() []Forward {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.list)
}

func (f *forwards) Remove(id int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fwd := range f.list {
		if fwd.ID == id {
			f.list = slices.Delete(f.list, i, i+1)
			return nil
		}
	}
	return fmt.Errorf("%d: %w", id, ErrNoForward)
}

// start runs a server until the test ends and returns its path.
func start(t *testing.T, f Forwarder, cfg Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api")
	cfg.Guest = netip.MustParseAddr("10.0.2.100")
	s, err := Listen(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(context.Background(), f) })
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return path
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a request in pieces and returns the whole reply. The client keeps
// its half open.
func ask(t *testing.T, path string, pieces ...string) string {
	t.Helper()
	c := dial(t, path)
	for _, p := range pieces {
		if _, err := c.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("%q: %v", pieces, err)
	}
	return string(b)
}

func bad(what string) string { return `{"error":{"desc":"bad request: ` + what + `"}}` }

func add(arguments string) string {
	return `{"execute":"add_hostfwd","arguments":{` + arguments + `}}`
}

func TestRequests(t *testing.T) {
	tests := []struct{ request, want string }{
		{"nonsense", bad("cannot parse JSON")},
		{`[]`, bad("json_object() failed")},
		{`null`, bad("json_object() failed")},
		{`{}`, bad("no execute found")},
		{`{"execute":5}`, bad("no execute found")},
		{`{"Execute":"list_hostfwd"}`, bad("no execute found")},
		{`{"execute":"shutdown"}`, bad("unknown execute")},
		{`{"execute":"` + strings.Repeat("x", maxRequest) + `"}`, bad("too large message")},
		{`{"execute":"list_hostfwd"}` + strings.Repeat(" ", maxRequest), bad("too large message")},
		{`{"execute":"` + strings.Repeat("x", maxRequest-15) + `"}`, bad("unknown execute")},
		{`{"execute":"add_hostfwd"}`, bad("add_hostfwd: bad arguments.proto")},
		{`{"execute":"add_hostfwd","arguments":[]}`, bad("add_hostfwd: bad arguments.proto")},
		{add(``), bad("add_hostfwd: bad arguments.proto")},
		{add(`"proto":"TCP","host_port":1,"guest_port":1`), bad("add_hostfwd: bad arguments.proto")},
		{add(`"proto":"sctp","host_port":1,"guest_port":1`), bad("add_hostfwd: bad arguments.proto")},
		{add(`"proto":"tcp","host_addr":"x","host_port":1,"guest_port":1`), bad("add_hostfwd: bad arguments.host_addr")},
		{add(`"proto":"tcp","host_addr":7,"host_port":1,"guest_port":1`), bad("add_hostfwd: bad arguments.host_addr")},
		{add(`"proto":"tcp","guest_port":1`), bad("add_hostfwd: bad arguments.host_port")},
		{add(`"proto":"tcp","host_port":0,"guest_port":1`), bad("add_hostfwd: bad arguments.host_port")},
		{add(`"proto":"tcp","host_port":0.9,"guest_port":1`), bad("add_hostfwd: bad arguments.host_port")},
		{add(`"proto":"tcp","host_port":-1,"guest_port":1`), bad("add_hostfwd: bad arguments.host_port")},
		{add(`"proto":"tcp","host_port":65536,"guest_port":1`), bad("add_hostfwd: bad arguments.host_port")},
		{add(`"proto":"tcp","host_port":1e99,"guest_port":1`), bad("add_hostfwd: bad arguments.host_port")},
		{add(`"proto":"tcp","host_port":"80","guest_port":1`), bad("add_hostfwd: bad arguments.host_port")},
		{add(`"proto":"tcp","host_port":1,"guest_addr":"10.0.2","guest_port":1`), bad("add_hostfwd: bad arguments.guest_addr")},
		{add(`"proto":"tcp","host_port":1,"guest_addr":"fe80::1%lo","guest_port":1`), bad("add_hostfwd: bad arguments.guest_addr")},
		{add(`"proto":"tcp","host_port":1`), bad("add_hostfwd: bad arguments.guest_port")},
		{
			add(`"proto":"tcp","host_port":99,"guest_port":1`),
			`{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed","cause":"publish 0.0.0.0:99: address already in use"}}`,
		},
		{`{"execute":"remove_hostfwd"}`, bad("remove_hostfwd: bad arguments.id")},
		{`{"execute":"remove_hostfwd","arguments":{"id":"1"}}`, bad("remove_hostfwd: bad arguments.id")},
		{`{"execute":"remove_hostfwd","arguments":{"id":1}}`, bad("remove_hostfwd: bad arguments.id")},
		{`{"execute":"list_hostfwd"}`, `{"return":{"entries":[]},"entries":[]}`},
		{`{"execute":"list_hostfwd"} and more`, `{"return":{"entries":[]},"entries":[]}`},
		{"{\"execute\":\"list_hostfwd\"}\x00", `{"return":{"entries":[]},"entries":[]}`},
	}
	path := start(t, &forwards{}, Config{})
	for _, tt := range tests {
		if got := ask(t, path, tt.request); got != tt.want {
			t.Errorf("%.100s: got %s, want %s", tt.request, got, tt.want)
		}
	}
}

func TestForward(t *testing.T) {
	tests := []struct{ arguments, want string }{
		{
			`"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80`,
			`"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80`,
		},
		{
			`"proto":"udp","host_port":53.9,"guest_port":5e1`,
			`"proto":"udp","host_addr":"0.0.0.0","host_port":53,"guest_addr":"10.0.2.100","guest_port":50`,
		},
		{
			`"proto":"tcp","host_addr":"","host_port":1,"guest_addr":null,"guest_port":65535`,
			`"proto":"tcp","host_addr":"0.0.0.0","host_port":1,"guest_addr":"10.0.2.100","guest_port":65535`,
		},
		{
			`"proto":"tcp","host_addr":"::1","host_port":1,"guest_addr":"fd00::64","guest_port":1`,
			`"proto":"tcp","host_addr":"::1","host_port":1,"guest_addr":"fd00::64","guest_port":1`,
		},
		{
			`"proto":"tcp","host_addr":"::ffff:127.0.0.1","host_port":1,"guest_addr":"0.0.0.0","guest_port":1`,
			`"proto":"tcp","host_addr":"127.0.0.1","host_port":1,"guest_addr":"10.0.2.100","guest_port":1`,
		},
	}
	for _, tt := range tests {
		path := start(t, &forwards{}, Config{})
		if got, want := ask(t, path, add(tt.arguments)), `{"return":{"id":1}}`; got != want {
			t.Errorf("%s: got %s, want %s", tt.arguments, got, want)
		}
		entries := `"entries":[{"id":1,` + tt.want + `}]`
		want := `{"return":{` + entries + `},` + entries + `}`
		if got := ask(t, path, `{"execute":"list_hostfwd"}`); got != want {
			t.Errorf("%s: got %s, want %s", tt.arguments, got, want)
		}
		if got, want := ask(t, path, `{"execute":"remove_hostfwd","arguments":{"id":1.5}}`), `{"return":{}}`; got != want {
			t.Errorf("remove: got %s, want %s", got, want)
		}
		if got, want := ask(t, path, `{"execute":"list_hostfwd"}`), `{"return":{"entries":[]},"entries":[]}`; got != want {
			t.Errorf("after remove: got %s, want %s", got, want)
		}
	}
}

// A request may come in any pieces, with or without the end of the client's
// half, and with a newline.
func TestPieces(t *testing.T) {
	path := start(t, &forwards{}, Config{})
	const request, want = `{"execute":"list_hostfwd"}`, `{"return":{"entries":[]},"entries":[]}`
	for _, pieces := range [][]string{
		{request},
		{request + "\n"},
		{" " + request[:5], request[5:] + "\n"},
		strings.Split(request, ""),
	} {
		if got := ask(t, path, pieces...); got != want {
			t.Errorf("%q: got %s, want %s", pieces, got, want)
		}
	}
	c := dial(t, path)
	for _, b := range []byte(request) {
		c.Write([]byte{b})
	}
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != want {
		t.Errorf("half-closed: got %s, %v, want %s", got, err, want)
	}
}

// A client that ends in the middle, or stops there, gets an answer.
func TestIncomplete(t *testing.T) {
	want := bad("cannot parse JSON")
	for _, request := range []string{"", "  ", `{"execute":`} {
		path := start(t, &forwards{}, Config{})
		c := dial(t, path)
		c.Write([]byte(request))
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("%q, end: got %s, %v, want %s", request, got, err, want)
		}
		path = start(t, &forwards{}, Config{Timeout: time.Millisecond})
		c = dial(t, path)
		c.Write([]byte(request)) // may be too late,
		got, _ := io.ReadAll(c)  // which is a reset after the answer
		if string(got) != want {
			t.Errorf("%q, silence: got %s, want %s", request, got, want)
		}
	}
}

// Clients that say nothing, that send rubbish or that leave hurt nobody else.
func TestManyClients(t *testing.T) {
	path := start(t, &forwards{}, Config{})
	silent := make([]*net.UnixConn, 100)
	for i := range silent {
		silent[i] = dial(t, path)
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			c := dial(t, path)
			c.Write([]byte(strings.Repeat("\x00{]", i)))
			c.Close()
		})
		wg.Go(func() {
			if got := ask(t, path, add(`"proto":"tcp","host_port":1,"guest_port":1`)); !strings.HasPrefix(got, `{"return":{"id":`) {
				t.Errorf("got %s", got)
			}
		})
	}
	wg.Wait()
	if got := strings.Count(ask(t, path, `{"execute":"list_hostfwd"}`), `"id":`); got != 200 {
		t.Errorf("entries in two lists: got %d, want 200", got)
	}
}

func TestListenReplacesWhatIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	s, err := Listen(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Config{}); !errors.Is(err, errLive) {
		t.Errorf("second: got %v, want %v", err, errLive)
	}
	s.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close: got %v, want %v", err, os.ErrNotExist)
	}
	s.Close() // does nothing
}

// TestListenWaits wants the next instance to wait for one that is leaving.
func TestListenWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api")
	first, err := Listen(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	met := make(chan struct{}) // somebody has looked whether we are alive
	go func() {
		if c, err := first.listener.Accept(); err == nil {
			c.Close()
		}
		first.Close()
		close(met)
	}()
	second, err := Listen(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	<-met
	second.Close()
}

// A server removes only its own socket.
func TestCloseLeavesOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api")
	s, err := Listen(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(path, path+"~"), os.WriteFile(path, nil, 0o600), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("got %v, want the other's file", err)
	}
}

func TestListenErrors(t *testing.T) {
	dir := t.TempDir()
	empty := t.TempDir()
	for path, want := range map[string]string{
		empty:                             "is a directory",
		filepath.Join(dir, "none", "api"): "no such file or directory",
		filepath.Join(dir, strings.Repeat("x", maxPath)): "longer than 107 bytes",
	} {
		if _, err := Listen(path, Config{}); err == nil || err.Error() != "API socket "+path+": "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := os.Stat(empty); err != nil {
		t.Errorf("a directory in the socket's place: %v", err)
	}
}

func TestAbstractName(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := Listen("@api", Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Lstat("@api"); err != nil {
		t.Error(err)
	}
}

func TestRunEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api")
	s, err := Listen(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx, &forwards{}) })
	c := dial(t, path)
	c.Write([]byte("{")) // not complete
	cancel()
	wg.Wait()
	s.Close() // the client may not have been accepted
	if got, err := io.ReadAll(c); len(got) != 0 {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"execute":"list_hostfwd"}`))
	f.Add([]byte(add(`"proto":"tcp","host_addr":"::1","host_port":1.5,"guest_addr":"","guest_port":2`)))
	f.Add([]byte(`{"execute":"remove_hostfwd","arguments":{"id":1}}`))
	f.Add([]byte("{\"\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parse(b)
		bad := badRequest("")
		if err != nil && !errors.Is(err, errIncomplete) && !errors.As(err, &bad) {
			t.Errorf("%q: got %v", b, err)
		}
		if err != nil {
			return
		}
		fwd, err := r.arguments.forward(netip.MustParseAddr("10.0.2.100"))
		if err == nil && (!fwd.Host.IsValid() || !fwd.Guest.IsValid() || fwd.Host.Port() == 0 || fwd.Guest.Port() == 0) {
			t.Errorf("%q: got %+v", b, fwd)
		}
		_, _ = r.arguments.number("id")
	})
}
