package portfwd

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"taproot/stack/flow"
)

// TestWait has a rule wait for an address of the host, which this test cannot
// give it: the rule stays as it is, and is gone when it is removed.
func TestWait(t *testing.T) {
	table, r := newRecorded(t)
	rule := Rule{Proto: flow.TCP, Listen: netip.MustParseAddrPort("192.0.2.1:8080"), Ports: 10}
	if _, err := table.Add(t.Context(), rule); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Fatalf("without Wait: got %v, want %v", err, syscall.EADDRNOTAVAIL)
	}
	_, changes, stop := table.Changes()
	defer stop()
	rule.Wait = true
	id, err := table.Add(t.Context(), rule)
	if err != nil {
		t.Fatal(err)
	}
	table.Retry(t.Context())
	if got := table.List()[0]; got.State != StateWaiting || got.Bound != 0 || !strings.Contains(got.Err, "cannot assign") {
		t.Errorf("got %+v, want it to wait", got)
	}
	if err := table.Remove(id); err != nil {
		t.Fatal(err)
	}
	for _, want := range []ChangeKind{RuleAdded, RuleRemoved} {
		if got := <-changes; got.Kind != want {
			t.Errorf("told: got %v, want %v", got.Kind, want)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.published) != 0 {
		t.Errorf("published: got %v, want nothing", r.published)
	}
}

// TestRetryTogether has the host's addresses change while a rule is added: who
// tries it again must not take the other one for somebody who has the port.
func TestRetryTogether(t *testing.T) {
	table, _ := newRecorded(t)
	for range 50 {
		listen := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), freeRange(t, 1))
		rule := Rule{Proto: flow.TCP, Listen: listen, Wait: true}
		id, err := table.insert(Entry{Rule: rule, State: StateWaiting, Err: "no address"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { table.Retry(t.Context()) })
		}
		wg.Wait()
		if got := table.List()[0]; got.State != StateOpen {
			t.Fatalf("got %+v, want it to be open", got)
		}
		if err := table.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRetry has the address come: as one of loopback, which is there always.
func TestRetry(t *testing.T) {
	table, r := newRecorded(t)
	_, changes, stop := table.Changes()
	defer stop()
	listen := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), freeRange(t, 1))
	taken, err := net.Listen("tcp4", listen.String())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	waiting := Entry{Rule: Rule{Proto: flow.TCP, Listen: listen, Wait: true}, State: StateWaiting, Err: "no address"}
	id, err := table.insert(waiting, nil)
	if err != nil {
		t.Fatal(err)
	}
	table.Retry(t.Context())
	if got := table.List()[0]; got.State != StateWaiting || !strings.Contains(got.Err, "held by") || strings.Contains(got.Err, "held by rule") {
		t.Errorf("taken: got %+v, want it to wait, and our process to be named", got)
	}
	taken.Close()
	table.Retry(t.Context())
	table.Retry(t.Context())
	if got := table.List()[0]; got.ID != id || got.State != StateOpen || got.Bound != 1 || got.Err != "" {
		t.Errorf("free: got %+v, want it to be open", got)
	}
	for _, want := range []ChangeKind{RuleAdded, RuleChanged, RuleChanged} {
		if got := <-changes; got.Kind != want {
			t.Errorf("told: got %v, want %v", got.Kind, want)
		}
	}
	r.mu.Lock()
	if len(r.published) != 1 || r.published[0].Rule != id {
		t.Errorf("published: got %v, want one socket of rule %d", r.published, id)
	}
	r.mu.Unlock()
}
