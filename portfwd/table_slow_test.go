package portfwd

import (
	"errors"
	"testing"
	"time"

	"taproot/test/settle"
)

// TestSlowEngine wants nobody to wait for an engine that closes a rule's sockets,
// but who removes the rule.
func TestSlowEngine(t *testing.T) {
	table, r := newRecorded(t)
	rule := Rule{Listen: addrPort("127.0.0.1:0"), Target: port(80)}
	id, err := table.Add(t.Context(), rule)
	if err != nil {
		t.Fatal(err)
	}
	slow := make(chan struct{})
	r.mu.Lock()
	r.slow = slow
	r.mu.Unlock()
	removed := make(chan error, 1)
	go func() { removed <- table.Remove(id) }()
	settle.Until(t, "the rule is gone", func() bool { return len(table.List()) == 0 })
	if _, err := table.Add(t.Context(), rule); err != nil {
		t.Error(err)
	}
	select {
	case err := <-removed:
		t.Errorf("removed before the engine has: %v", err)
	default:
	}
	close(slow)
	if err := <-removed; err != nil {
		t.Error(err)
	}
}

// TestSlowEngineRefuses is TestSlowEngine for a rule that the engine does not take.
func TestSlowEngineRefuses(t *testing.T) {
	table, r := newRecorded(t)
	rule := Rule{Listen: addrPort("127.0.0.1:0"), Target: port(80)}
	slow, refusal := make(chan struct{}), errors.New("no")
	r.mu.Lock()
	r.slow, r.err = slow, refusal
	r.mu.Unlock()
	added := make(chan error, 1)
	go func() {
		_, err := table.Add(t.Context(), rule)
		added <- err
	}()
	settle.Until(t, "the engine closes the sockets", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.unpublished) == 1
	})
	r.mu.Lock()
	r.err = nil
	r.mu.Unlock()
	other := make(chan error, 1)
	go func() {
		_, err := table.Add(t.Context(), rule)
		other <- err
	}()
	select {
	case err := <-other:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(settle.Patience):
		t.Error("another rule waits for the engine")
	}
	close(slow)
	if err := <-added; !errors.Is(err, refusal) {
		t.Errorf("got %v, want %v", err, refusal)
	}
}
