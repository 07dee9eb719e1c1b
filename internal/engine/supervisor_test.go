package engine

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/test/settle"
	"taproot/userns"
)

// A testWorld is a guest without namespaces, which is gone when its function
// returns.
type testWorld struct {
	device *os.File
	guest  func(*supervisor)
}

func (w *testWorld) open(context.Context, *supervisor) (*os.File, deviceSpec, error) {
	return w.device, deviceSpec{}, nil
}

func (w *testWorld) namespace() (*userns.Namespace, error) { return nil, errNoNamespace }

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
		ended <- supervise(t.Context(), Config{DNS: DNS{Off: true}, NoFollow: true}, w)
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
