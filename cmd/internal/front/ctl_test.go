package front

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"taproot/internal/api"
	"taproot/internal/engine"
	"taproot/portfwd"
	"taproot/stack/flow"
)

// A fakeInstance is an instance with one flow.
type fakeInstance struct{}

func (fakeInstance) Status() engine.Status {
	return engine.Status{Engine: engine.EngineRunning, Process: 4711, NetNS: 40, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24")}}
}

func (fakeInstance) Flows(context.Context, flow.Filter) ([]flow.Info, error) {
	return []flow.Info{{ID: 7, Key: flow.Key{Proto: flow.UDP, Initiator: netip.MustParseAddrPort("10.0.2.100:1"), Target: netip.MustParseAddrPort("192.0.2.1:53")}, Opened: time.Now()}}, nil
}

func (fakeInstance) Kill(context.Context, flow.Filter) (int, error) { return 3, nil }

func (fakeInstance) Statistics(context.Context) (engine.Statistics, error) {
	return engine.Statistics{}, engine.ErrNoEngine
}

func (fakeInstance) Events() (<-chan engine.Event, func()) {
	c := make(chan engine.Event, 1)
	c <- engine.Event{Kind: engine.EventEngineDied, Why: "signal: killed"}
	close(c)
	return c, func() {}
}

func (fakeInstance) Restart(_ context.Context, binary string) error {
	if binary != "" && filepath.Base(binary) != "taproot" {
		return errors.New("it is no engine")
	}
	return nil
}

// A deadEnd is an engine that never hears of anything.
type deadEnd struct{}

func (deadEnd) Publish([]portfwd.Listener, []*os.File) error { return nil }
func (deadEnd) Unpublish(int, portfwd.Existing) (func() error, error) {
	return func() error { return nil }, nil
}

func (deadEnd) Pause(portfwd.SocketID) error  { return nil }
func (deadEnd) Resume(portfwd.SocketID) error { return nil }

// noDiag opens something that lists no sockets.
func noDiag(context.Context, portfwd.Direction) (*os.File, error) { return os.Open(os.DevNull) }

// startInstance has an instance with a name answer until the test ends.
func startInstance(t *testing.T, name string) {
	t.Helper()
	s, err := api.Listen(api.Config{Name: name, Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	rules := portfwd.NewTable(portfwd.TableConfig{Carrier: deadEnd{}, Diag: noDiag})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(t.Context(), fakeInstance{}, rules); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
		rules.Close()
	})
}

func TestCtl(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	startInstance(t, "web")
	path := filepath.Join(api.Directory(), "web.sock")
	for _, tt := range []struct {
		args   string
		status int
		want   string // in what is printed
	}{
		{"ls", 0, "net:[40] of process 4711"},
		{"ls --json", 0, `"name": "web"`},
		{"ctl info", 0, "10.0.2.100/24"},
		{"ctl web info --json", 0, `"state": "running"`},
		{"ctl --instance=web info", 0, "web"},
		{"ctl " + path + " info", 0, "web"},
		{"ctl web publish 127.0.0.1::80", 0, "guest:80"},
		{"ctl web ports", 0, "open   -"}, // there is no engine to count
		{"ctl web ports --json", 0, `"engine": "starting"`},
		{"ctl web flows", 0, "192.0.2.1:53"},
		{"ctl web flows --proto=udp --json", 0, `"id": 7`},
		{"ctl web flows --kill --all", 0, "3 ended"},
		{"ctl web events", 0, "engine-died (signal: killed)"},
		{"ctl web restart", 0, ""},
		{"ctl web restart --binary=./taproot", 0, ""},
		{"ctl web restart --binary=/bin/true", 125, "it is no engine"},
		{"ctl web restart x", 2, "unexpected operand"},
		{"ctl web unpublish 1", 0, ""},
		{"ctl web unpublish 1", 125, "no such rule"},
		{"ctl web stats", 125, "started again"},
		{"ctl web publish auto:80/tcp", 0, "loopback:auto:80  guest:same  following"},
		{"ctl web publish 127.0.0.1:80:x", 125, "taproot: hint: "},
		{"ctl", 2, "see: taproot ctl --help"},
		{"ctl web", 2, "see: taproot ctl --help"},
		{"ctl web prots", 2, `did you mean "ports"?`},
		{"ctl wbe ports", 2, "instances: web"},
		{"ctl web publish", 2, "for example"},
		{"ctl web publish --fd=3 80 81", 2, "one port expected"},
		{"ctl web publish --fd=-1 80", 2, "not the number of a descriptor"},
		{"ctl web publish --fd=1000000 80", 125, "descriptor 1000000: bad file descriptor"},
		{"ctl web unpublish", 2, "taproot ctl ports"},
		{"ctl web unpublish x", 2, `"x" is not the id`},
		{"ctl web flows --kill", 2, "--all means all"},
		{"ctl web flows --port=x", 125, "not a number"},
		{"ctl web ports 1", 2, "unexpected operand"},
		{"run --name=web/x true", 2, "letters"},
		{"run --name=ports true", 2, "word of taproot ctl"},
		{"run --api=x true", 2, "./x"},
		{"run --api=off --name=x true", 2, "exclude each other"},
	} {
		var c call
		status := c.main(strings.Fields(tt.args)...)
		if status != tt.status {
			t.Errorf("%s: status %d, want %d", tt.args, status, tt.status)
		}
		if got := c.stdout.String() + c.stderr.String(); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q in it", tt.args, got, tt.want)
		}
	}
	startInstance(t, "other")
	var c call
	if status := c.main("ctl", "ports"); status != 2 || !strings.Contains(c.stderr.String(), "instances: other, web") {
		t.Errorf("two instances: got status %d and %q", status, c.stderr.String())
	}
}

func TestPlain(t *testing.T) {
	if got, want := plain("a b\n\x1b[31m\tü"), "a b\ufffd\ufffd[31m\ufffdü"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCtlWithoutInstances(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, args := range []string{"ctl info", "ctl web info"} {
		var c call
		if status := c.main(strings.Fields(args)...); status != 125 || !strings.Contains(c.stderr.String(), "taproot: hint: ") {
			t.Errorf("%s: got status %d and %q", args, status, c.stderr.String())
		}
	}
	var c call
	if status := c.main("ls", "--json"); status != 0 || c.stdout.String() != "[]\n" {
		t.Errorf("ls: got status %d and %q, want an empty list", status, c.stdout.String())
	}
}

func TestNameFirst(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for args, want := range map[string]string{
		"":                            "",
		"ctl":                         "ctl",
		"ctl ports":                   "ctl ports",
		"ctl web ports":               "ctl --instance=web ports",
		"ctl --json ports":            "ctl --json ports",
		"ctl ./web.sock":              "ctl --instance=./web.sock",
		"ctl prots":                   "ctl prots", // no instance of that name
		"run ctl web":                 "run ctl web",
		"__complete ctl we":           "__complete ctl we",
		"__complete ctl web po":       "__complete ctl --instance=web po",
		"__complete ctl unpublish 1":  "__complete ctl unpublish 1",
		"__completeNoDesc ctl web po": "__completeNoDesc ctl --instance=web po",
	} {
		if got := nameFirst(strings.Fields(args)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: got %q, want %q", args, got, want)
		}
	}
}

// TestCompletion wants names and ids.
func TestCompletion(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	startInstance(t, "web")
	var first call
	if status := first.main("ctl", "web", "publish", "127.0.0.1::80"); status != 0 {
		t.Fatal(first.stderr.String())
	}
	for _, tt := range []struct{ words, want []string }{
		{[]string{"ctl", ""}, []string{"web", "ports"}},
		{[]string{"ctl", "web", ""}, []string{"ports"}},
		{[]string{"ctl", "web", "unpublish", ""}, []string{"1\t", "guest:80"}},
		{[]string{"ctl", "flows", "--way", ""}, []string{"shortcut"}},
		{[]string{"ctl", "web", "flows", "--rule", ""}, []string{"1\t", "guest:80"}},
	} {
		var c call
		c.main(append([]string{"__complete"}, tt.words...)...)
		for _, want := range tt.want {
			if got := c.stdout.String(); !strings.Contains(got, want) {
				t.Errorf("%q: got %q, want %q in it", tt.words, got, want)
			}
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", 1<<64 - 1: "18.4 EB"} {
		if got := size(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 25 * time.Hour: "1d1h", 90 * time.Minute: "1h30m",
	} {
		if got := age(time.Now().Add(-d)); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
