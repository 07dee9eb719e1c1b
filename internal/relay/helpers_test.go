package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/settle"
)

// TestMain checks that no test leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) { os.Exit(settle.Main(m)) }

// segment is the piece in which a fakeStream hands out bytes, as gVisor hands
// out segments.
const segment = 1448

// A fakeStream is the guest's end without a guest. It is exact about EAGAIN:
// what it says there is or is not, holds.
type fakeStream struct {
	// A line for each name: checklocks counts lines where it means fields.
	reads  atomic.Int64 // calls of ReadTo
	writes atomic.Int64 // calls of WriteFrom

	mu sync.Mutex
	// notify is what Notify was given.
	// +checklocks:mu
	notify func()
	// sent is what the guest has sent and nobody has read.
	// +checklocks:mu
	sent []byte
	// +checklocks:mu
	sentFIN bool
	// got is what the guest was sent and has not read.
	// +checklocks:mu
	got []byte
	// +checklocks:mu
	gotFIN bool
	// window is how much of got there may be, in bytes.
	// +checklocks:mu
	window int
	// +checklocks:mu
	err error
	// +checklocks:mu
	aborted int // calls
	// +checklocks:mu
	closed int // calls
}

func newFakeStream(window int) *fakeStream {
	return &fakeStream{window: window, notify: func() {}}
}

func (f *fakeStream) Notify(notify func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notify = notify
}

func (f *fakeStream) ReadTo(w io.Writer) (int, error) {
	f.reads.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err != nil:
		return 0, f.err
	case len(f.sent) == 0 && f.sentFIN:
		return 0, io.EOF
	case len(f.sent) == 0:
		return 0, syscall.EAGAIN
	}
	total := 0
	for len(f.sent) > 0 {
		n, err := w.Write(f.sent[:min(segment, len(f.sent))])
		total += n
		f.sent = f.sent[n:]
		if err != nil {
			break
		}
	}
	return total, nil
}

func (f *fakeStream) WriteFrom(p Payload) (int, error) {
	f.writes.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	room := f.window - len(f.got)
	switch {
	case f.err != nil:
		return 0, f.err
	case room <= 0:
		return 0, syscall.EAGAIN
	}
	b := make([]byte, min(room, p.Len()))
	for at := 0; at < len(b); {
		n, err := p.Read(b[at:])
		if err != nil {
			return 0, syscall.EFAULT // as gVisor: nothing is sent
		}
		at += n
	}
	f.got = append(f.got, b...)
	return len(b), nil
}

func (f *fakeStream) CloseWrite() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gotFIN = true
	return f.err
}

func (f *fakeStream) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fakeStream) Abort() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aborted++
}

func (f *fakeStream) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
}

// send is the guest's write, which never waits.
func (f *fakeStream) send(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, b...)
	f.notify()
}

// sendFIN is the guest's shutdown.
func (f *fakeStream) sendFIN() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sentFIN = true
	f.notify()
}

// reset is the guest's RST.
func (f *fakeStream) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = syscall.ECONNRESET
	f.notify()
}

// open sets the guest's window.
func (f *fakeStream) open(window int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.window = window
	f.notify()
}

// take is the guest's read of what is there; fin says that nothing will come.
func (f *fakeStream) take() (b []byte, fin bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, f.got = f.got, nil
	f.notify()
	return b, f.gotFIN
}

// takeAll reads until the host's FIN.
func (f *fakeStream) takeAll(t *testing.T) []byte {
	t.Helper()
	var all []byte
	settle.Until(t, "the host's FIN", func() bool {
		b, fin := f.take()
		all = append(all, b...)
		return fin && len(b) == 0
	})
	return all
}

// A bench is a relay that runs between a fake guest and a host's peer.
type bench struct {
	guest *fakeStream
	peer  *net.TCPConn
	stop  func()

	outbound, inbound atomic.Int64
	inOrder           bool // valid when ended is closed
	ended             chan struct{}
}

// newBench starts a relay, which the test must bring to its end.
func newBench(t *testing.T, window int) *bench {
	t.Helper()
	m, stop := newMover(t, 1)
	b := newBenchOn(t, m, window)
	b.stop = stop
	return b
}

// newBenchOn is newBench on a Mover that runs already.
func newBenchOn(t *testing.T, m *Mover, window int) *bench {
	t.Helper()
	host, peer := connectFD(t)
	b := &bench{guest: newFakeStream(window), peer: peer, ended: make(chan struct{})}
	if err := m.JoinStream(b.guest, host, Counters{Outbound: &b.outbound, Inbound: &b.inbound}, b.end); err != nil {
		t.Fatal(err)
	}
	return b
}

// end is what the relay calls at its end.
func (b *bench) end(inOrder bool) {
	b.inOrder = inOrder
	close(b.ended)
}

// wait waits for the end of the relay.
func (b *bench) wait(t *testing.T) {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(settle.Patience):
		stacks := make([]byte, 1<<16)
		t.Fatalf("the relay did not end; goroutines:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
}

// wantEnd waits for the end of the relay, and wants the guest's end closed
// once, in the right way.
func (b *bench) wantEnd(t *testing.T, inOrder bool) {
	t.Helper()
	b.wait(t)
	if b.inOrder != inOrder {
		t.Errorf("in order: got %v, want %v", b.inOrder, inOrder)
	}
	b.guest.mu.Lock()
	defer b.guest.mu.Unlock()
	closed, aborted := 0, 1
	if inOrder {
		closed, aborted = 1, 0
	}
	if b.guest.closed != closed || b.guest.aborted != aborted {
		t.Errorf("guest: got %d times closed and %d times aborted, want %d and %d", b.guest.closed, b.guest.aborted, closed, aborted)
	}
}

// wantReset wants the host's peer to see a reset, after data perhaps. A peer
// that has read our FIN reads no error any more, but cannot write.
func (b *bench) wantReset(t *testing.T) {
	t.Helper()
	b.peer.SetDeadline(time.Now().Add(settle.Patience))
	_, err := io.Copy(io.Discard, b.peer)
	if err == nil {
		_, err = b.peer.Write([]byte("x"))
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("peer: got %v, want %v or %v", err, syscall.ECONNRESET, syscall.EPIPE)
	}
}

// resetPeer sends RST from the host's peer.
func (b *bench) resetPeer(t *testing.T) {
	t.Helper()
	if err := b.peer.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	b.peer.Close()
}

// connect returns the two ends of a connection over the loopback. The caller
// owns host.
func connect(t testing.TB) (host *os.File, peer *net.TCPConn) {
	t.Helper()
	fd, peer := connectFD(t)
	return os.NewFile(uintptr(fd), "host"), peer
}

// connectFD is connect without the runtime's poller.
func connectFD(t testing.TB) (host int, peer *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	if peer, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	return fd, peer
}

// readAll reads from the peer until our FIN.
func (b *bench) readAll(t *testing.T) []byte {
	t.Helper()
	b.peer.SetReadDeadline(time.Now().Add(settle.Patience))
	all, err := io.ReadAll(b.peer)
	if err != nil {
		t.Errorf("peer: %v after %d bytes", err, len(all))
	}
	return all
}

// pattern returns n bytes that repeat nowhere near.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16) ^ seed
	}
	return b
}

// wantBytes compares without printing megabytes.
func wantBytes(t *testing.T, who string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes, want %d that were sent", who, len(got), len(want))
	}
}
