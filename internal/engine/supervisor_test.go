package engine

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/tap"
	"taproot/test/settle"
	"taproot/userns"
)

// A testWorld is a guest without namespaces, which is gone when its function
// returns.
type testWorld struct {
	device *os.File
	guest  func(*supervisor)
}

func (w *testWorld) open(context.Context, *supervisor) (*os.File, tap.Features, error) {
	return w.device, tap.Features{}, nil
}

func (w *testWorld) namespace() (*userns.Namespace, error) { return nil, errNoNamespace }

func (w *testWorld) place() (process int, path string) { return 0, "" }

func (w *testWorld) bare() bool { return false }

func (w *testWorld) outlives() bool { return false }

func (w *testWorld) live(_ context.Context, s *supervisor) error {
	w.guest(s)
	return nil
}

func (w *testWorld) close() {}

// TestDeafEngine has an engine that does not listen while ports are published.
// When the guest is gone, the supervisor goes too.
func TestDeafEngine(t *testing.T) {
	setScript(t, "deaf")
	var wg sync.WaitGroup
	w := &testWorld{device: device(t), guest: func(s *supervisor) {
		added := make(chan struct{})
		wg.Go(func() {
			defer close(added)
			for {
				_, err := s.rules.Add(t.Context(), portfwd.Rule{
					Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Target: netip.MustParseAddrPort("10.0.2.100:80"),
				})
				if err != nil {
					return // it is over
				}
				added <- struct{}{}
			}
		})
		for { // until the engine's socket is full
			select {
			case <-added:
				continue
			case <-time.After(200 * time.Millisecond):
			}
			break
		}
		wg.Go(func() {
			for range added { // one more may have been let through
			}
		})
	}}
	ended := make(chan error, 1)
	go func() {
		ended <- supervise(t.Context(), Config{Sandbox: testSandbox(), DNS: DNS{Off: true}, NoFollow: true}, w)
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(settle.Patience):
		t.Fatal("the supervisor waits for an engine that does not listen")
	}
	wg.Wait()
}

// TestMissed has an engine that had no room for a published port's socket when
// it came. It gets it again.
func TestMissed(t *testing.T) {
	setScript(t, "miss")
	w := &testWorld{device: device(t), guest: func(s *supervisor) {
		const first = 1
		published := s.closings.expect(first)
		id, err := s.rules.Add(t.Context(), portfwd.Rule{
			Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Target: netip.MustParseAddrPort("10.0.2.100:80"),
		})
		if err != nil || id != first {
			t.Errorf("got rule %d and error %v, want %d", id, err, first)
			return
		}
		select {
		case <-published: // as this engine says it
		case <-time.After(settle.Patience):
			t.Error("the socket does not come again")
		}
	}}
	if err := supervise(t.Context(), Config{Sandbox: testSandbox(), DNS: DNS{Off: true}, NoFollow: true}, w); err != nil {
		t.Error(err)
	}
}

// TestPublishedBeforeGuest wants the engine to have the ports of the configuration
// when the guest begins, which may ask for them first of all.
func TestPublishedBeforeGuest(t *testing.T) {
	setScript(t, "slow")
	heard := filepath.Join(t.TempDir(), "heard")
	t.Setenv(publishedEnv, heard)
	w := &testWorld{device: device(t), guest: func(*supervisor) {
		if _, err := os.Stat(heard); err != nil {
			t.Error("the guest runs, and the engine has not heard of its port:", err)
		}
	}}
	cfg := Config{Sandbox: testSandbox(), DNS: DNS{Off: true}, NoFollow: true, Rules: []portfwd.Rule{{
		Proto: flow.TCP, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Target: netip.MustParseAddrPort("10.0.2.100:80"),
	}}}
	if err := supervise(t.Context(), cfg, w); err != nil {
		t.Error(err)
	}
}

// TestPublishWithoutSocket wants the supervisor to be told of a socket that did
// not arrive, and not of each when there are many.
func TestPublishWithoutSocket(t *testing.T) {
	ours, theirs := newWirePair(t)
	g := newTestGateway(t, plan.Offsets{}, Config{})
	g.log = slog.New(slog.DiscardHandler)
	for range 3 {
		g.do(theirs, message{Publish: []portfwd.Listener{{Rule: 1, Proto: flow.TCP, TargetPort: 80}}}, nil)
	}
	g.do(theirs, message{Publish: []portfwd.Listener{{}}}, files(t, 2))
	theirs.close()
	told := 0
	for {
		m, _, err := ours.receive()
		if err != nil {
			break
		}
		if m.Missed {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told: got %d times, want once", told)
	}
}
