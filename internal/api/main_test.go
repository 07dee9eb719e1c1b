package api

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"taproot/internal/engine"
	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/test/settle"
)

// TestMain checks that no test leaves a goroutine or a descriptor behind.
func TestMain(m *testing.M) { os.Exit(settle.Main(m)) }

// A fakeInstance is an instance without a guest.
type fakeInstance struct {
	events chan engine.Event

	mu sync.Mutex
	// +checklocks:mu
	status engine.Status
	// +checklocks:mu
	flows []flow.Info
	// asked is the last filter.
	// +checklocks:mu
	asked flow.Filter
	// err is what the engine is asked in vain with.
	// +checklocks:mu
	err error
}

func newFakeInstance() *fakeInstance {
	f := &fakeInstance{events: make(chan engine.Event, 8)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = engine.Status{
		Engine: engine.EngineRunning, Since: time.Unix(1700000000, 0).UTC(), Restarts: 2, Why: "signal: killed",
		Process: 4711, Path: "/proc/4711/ns/net", NetNS: 4026531840, Interface: "tap0", MTU: 1500, Offload: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.0.2.2")},
		Without:   "shortcut: switched off",
	}
	f.flows = []flow.Info{
		{ID: 1, Key: flow.Key{Proto: flow.TCP, Initiator: netip.MustParseAddrPort("10.0.2.100:4000"), Target: netip.MustParseAddrPort("198.51.100.1:80")}, Way: flow.Shortcut, Opened: time.Unix(1700000001, 0).UTC()},
		{ID: 2, Key: flow.Key{Proto: flow.UDP, Initiator: netip.MustParseAddrPort("[2001:db8::1]:53"), Target: netip.MustParseAddrPort("[fd00::64]:53")}, Rule: 1, Inbound: true, Opened: time.Unix(1700000002, 0).UTC(), Bytes: flow.Bytes{ToTarget: 3, ToInitiator: 4}},
	}
	return f
}

func (f *fakeInstance) Status() engine.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func (f *fakeInstance) Flows(_ context.Context, which flow.Filter) ([]flow.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = which
	return f.flows, f.err
}

func (f *fakeInstance) Kill(_ context.Context, which flow.Filter) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = which
	return len(f.flows), f.err
}

func (f *fakeInstance) Statistics(context.Context) (engine.Statistics, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := engine.Statistics{Since: f.status.Since, Counters: []engine.Counter{{Name: "frames_sent", Help: "Frames.", Value: 7}}}
	st.Limits = []engine.Limit{{Name: "flows_tcp", Help: "Connections.", Use: engine.Use{Now: 1, Max: 2, Refused: 3}}}
	st.Flows.Limit = [3]int{65536, 8192, 256}
	st.Flows.Proto[flow.TCP] = flow.Stats{Live: 1, Peak: 2, Opened: 3}
	st.Flows.Rules = map[int]flow.RuleStats{1: {Live: 1, Opened: 5, Bytes: flow.Bytes{ToTarget: 6, ToInitiator: 7}}}
	return st, f.err
}

func (f *fakeInstance) Events() (<-chan engine.Event, func()) { return f.events, func() {} }

func (f *fakeInstance) Restart(_ context.Context, binary string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.status.Binary = binary
	}
	return f.err
}

// fail has questions to the engine end with err.
func (f *fakeInstance) fail(err error, state engine.EngineState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.status.Engine = err, state
}

// A deadEnd is an engine that never hears of anything.
type deadEnd struct{}

func (deadEnd) Publish([]portfwd.Listener, []*os.File) error { return nil }
func (deadEnd) Unpublish(int, portfwd.Existing) (func() error, error) {
	return func() error { return nil }, nil
}

func (deadEnd) Pause(portfwd.SocketID) error  { return nil }
func (deadEnd) Resume(portfwd.SocketID) error { return nil }

// noDiag opens something that lists no sockets, for automatic rules that nobody
// follows.
func noDiag(context.Context, portfwd.Direction) (*os.File, error) { return os.Open(os.DevNull) }

// A bench is a server that runs, with a real table.
type bench struct {
	*Client
	server   *Server
	instance *fakeInstance
	table    *portfwd.Table
	path     string
}

// newBench starts a server, which runs until the test ends.
func newBench(t testing.TB) *bench {
	t.Helper()
	return newBenchOf(t, Config{Name: "web", Version: "v1"})
}

// newBenchOf is newBench with this configuration, whose path is made up.
func newBenchOf(t testing.TB, cfg Config) *bench {
	t.Helper()
	b := &bench{
		instance: newFakeInstance(),
		table:    portfwd.NewTable(portfwd.TableConfig{Carrier: deadEnd{}, Diag: noDiag}),
		path:     filepath.Join(t.TempDir(), "api.sock"),
	}
	t.Cleanup(b.table.Close)
	cfg.Path = b.path
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.server = s
	ended := make(chan error, 1)
	go func() { ended <- s.Run(context.Background(), b.instance, b.table) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(b.path); !os.IsNotExist(err) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	b.Client = NewClient(b.path)
	t.Cleanup(b.Client.Close)
	return b
}

// dial connects to the server without package http.
func (b *bench) dial(t testing.TB) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(settle.Patience))
	return c
}
