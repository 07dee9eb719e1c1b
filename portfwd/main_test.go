package portfwd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/relay"
	"taproot/internal/socket"
	"taproot/stack/flow"
	"taproot/test/settle"
)

// TestMain checks that no test leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) { os.Exit(settle.Main(m)) }

// What the guest of the tests has. Its loopback is the host's.
var (
	gateway4 = netip.AddrFrom4([4]byte{10, 0, 2, 2})
	guest4   = netip.AddrFrom4([4]byte{10, 0, 2, 100})
	gateway6 = netip.MustParseAddr("fd00::2")
	guest6   = netip.MustParseAddr("fd00::64")
)

// A bench is a Table and a Publisher, with the descriptors passed as between
// processes.
type bench struct {
	table     *Table
	guest     *guest
	flows     *flow.Table
	root      string        // the guest's root directory
	publisher *Publisher    // of now
	direct    Direct        // of each, nil for none
	refused   chan SocketID // what Publishers tell

	stop  context.CancelFunc
	ended chan struct{}
}

// newBench starts both until the test ends.
func newBench(t *testing.T, limits flow.Config) *bench {
	t.Helper()
	return newDirectBench(t, limits, nil)
}

// newDirectBench is newBench with something that connects past the stack.
func newDirectBench(t *testing.T, limits flow.Config, d Direct) *bench {
	t.Helper()
	b := &bench{
		direct: d, refused: make(chan SocketID, 1000),
		guest: &guest{dialed: make(chan dialed, 1000), datagrams: make(chan datagram, 1000)}, flows: flow.New(limits),
	}
	b.root = t.TempDir()
	b.table = NewTable(TableConfig{Carrier: b, Sockets: socketsHere, Root: b.openRoot})
	b.start(t)
	t.Cleanup(func() {
		b.kill()
		b.table.Close()
	})
	return b
}

// openRoot opens the guest's root directory.
func (b *bench) openRoot() (*os.File, error) { return openPath(nil, b.root, unix.O_DIRECTORY) }

// connectUnix is PublisherConfig.UnixSocket.
func (b *bench) connectUnix(_ context.Context, rule int) (*os.File, error) {
	return b.table.ConnectUnix(rule)
}

// start starts a Publisher that has no sockets.
func (b *bench) start(t *testing.T) {
	t.Helper()
	mover, err := relay.NewMover(relay.MoverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPublisher(PublisherConfig{
		Dial: b.guest.dial, SendUDP: b.guest.send, GuestSocket: socketHere, UnixSocket: b.connectUnix, Flows: b.flows, Mover: mover,
		Addresses: Addresses{Gateway4: gateway4, Gateway6: gateway6, Guest4: guest4, Guest6: guest6},
		Refused:   func(id SocketID) { b.refused <- id },
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.direct != nil {
		p.SetDirect(b.direct)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.publisher, b.stop, b.ended = p, stop, make(chan struct{})
	ended := b.ended
	go func() {
		defer close(ended)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			if err := mover.Run(ctx); err != nil {
				t.Errorf("run the mover: %v", err)
			}
		})
		if err := p.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
}

// kill ends the Publisher as the end of its process would.
func (b *bench) kill() {
	b.stop()
	<-b.ended
}

// Publish implements Carrier.
func (b *bench) Publish(listeners []Listener, files []*os.File) error {
	text, err := json.Marshal(listeners)
	if err != nil {
		return err
	}
	var arrived []Listener
	if err := json.Unmarshal(text, &arrived); err != nil {
		return err
	}
	if !slices.Equal(arrived, listeners) {
		return fmt.Errorf("listeners: got %+v, want %+v", arrived, listeners)
	}
	for i, l := range arrived {
		fd, err := socket.Dup(files[i])
		if err != nil {
			return err
		}
		if err := b.publisher.Add(l, os.NewFile(uintptr(fd), files[i].Name())); err != nil {
			return err
		}
	}
	return nil
}

// Unpublish implements Carrier.
func (b *bench) Unpublish(rule int, existing Existing) (func() error, error) {
	b.publisher.Remove(rule)
	if existing == ExistingKilled {
		b.publisher.Kill(rule)
	}
	return func() error { return nil }, nil
}

// Pause implements Carrier.
func (b *bench) Pause(id SocketID) error {
	b.publisher.Pause(id)
	return nil
}

// Resume implements Carrier.
func (b *bench) Resume(id SocketID) error {
	b.publisher.Resume(id)
	return nil
}

// add publishes a rule, until the test ends.
func (b *bench) add(t *testing.T, r Rule) Entry {
	t.Helper()
	id, err := b.table.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range b.table.List() {
		if e.ID == id {
			return e
		}
	}
	t.Fatalf("rule %d is not in the list", id)
	return Entry{}
}

// socketsHere is a SocketFunc for a guest whose namespace is ours.
func socketsHere(_ context.Context, specs []Socket) ([]*os.File, error) {
	var files []*os.File
	for _, s := range specs {
		f, err := open(s)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func open(s Socket) (*os.File, error) {
	fd, err := unix.Socket(s.Family, s.Type|unix.SOCK_CLOEXEC, s.Protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if s.Bind.IsValid() {
		err = bind(fd, s.Bind)
	}
	if err == nil && s.Listen {
		err = os.NewSyscallError("listen", unix.Listen(fd, 10))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "guest"), nil
}

// socketHere is PublisherConfig.GuestSocket for a guest whose namespace is ours.
func socketHere(_ context.Context, family, typ int) (*os.File, error) {
	return socket.Open(family, typ, nil)
}

// A guest notes what comes through the stack.
type guest struct {
	dialed    chan dialed
	datagrams chan datagram

	mu sync.Mutex
	// +checklocks:mu
	taken map[netip.AddrPort]bool // sources that are in use
	// +checklocks:mu
	refusal error // of all
	// +checklocks:mu
	refuses netip.Addr // where nobody listens
}

type dialed struct{ source, target netip.AddrPort }

type datagram struct {
	source, destination netip.AddrPort
	payload             string
	segment             int
}

// dial connects to a server that echoes.
func (g *guest) dial(_ context.Context, source, target netip.AddrPort) (Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refusal != nil {
		return nil, g.refusal
	}
	if target.Addr() == g.refuses {
		return nil, syscall.ECONNREFUSED
	}
	if g.taken[source] {
		return nil, syscall.EADDRINUSE
	}
	select {
	case g.dialed <- dialed{source, target}:
	default: // nobody counts that far
	}
	return newEcho(), nil
}

func (g *guest) send(source, destination netip.AddrPort, payload []byte, segment int) error {
	select {
	case g.datagrams <- datagram{source, destination, string(payload), segment}:
		return nil
	default:
		return errors.New("full")
	}
}

func (g *guest) refuse(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refusal = err
}

func (g *guest) refuseAt(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuses = a
}

func (g *guest) take(source netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.taken == nil {
		g.taken = make(map[netip.AddrPort]bool)
	}
	g.taken[source] = true
}

// An echo is a Conn whose guest sends back what it gets, FIN included.
type echo struct {
	mu sync.Mutex
	// +checklocks:mu
	notify func()
	// +checklocks:mu
	bytes []byte
	// +checklocks:mu
	fin bool
}

func newEcho() *echo {
	return &echo{notify: func() {}}
}

func (e *echo) Err() error { return nil }
func (e *echo) Abort()     {}
func (e *echo) Close()     {}

func (e *echo) Notify(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notify = f
}

func (e *echo) ReadTo(w io.Writer) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case len(e.bytes) > 0:
		n, _ := w.Write(e.bytes)
		e.bytes = e.bytes[n:]
		return n, nil
	case e.fin:
		return 0, io.EOF
	}
	return 0, syscall.EAGAIN
}

func (e *echo) WriteFrom(p interface {
	Read(b []byte) (int, error)
	Len() int
}) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := make([]byte, p.Len())
	if _, err := io.ReadFull(p, b); err != nil {
		return 0, syscall.EFAULT
	}
	e.bytes = append(e.bytes, b...)
	e.notify()
	return len(b), nil
}

func (e *echo) CloseWrite() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fin = true
	e.notify()
	return nil
}
