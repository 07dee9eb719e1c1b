package pasta

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"taproot/internal/api"
	"taproot/internal/engine"
	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/stack/policy"
)

// A ruleList is a table without sockets: ports from 9000 on are taken, and those
// below 80 are not allowed.
type ruleList struct {
	mu sync.Mutex
	// +checklocks:mu
	list []portfwd.Entry
	// +checklocks:mu
	last int
}

func (l *ruleList) Add(_ context.Context, r portfwd.Rule) (int, error) {
	port := r.Listen.Port()
	l.mu.Lock()
	defer l.mu.Unlock()
	taken := slices.ContainsFunc(l.list, func(e portfwd.Entry) bool {
		return e.Rule.Proto == r.Proto && e.Rule.Direction == r.Direction && e.Rule.Overlaps(port)
	})
	switch {
	case taken || port >= 9000:
		return 0, &portfwd.BindError{Proto: r.Proto, Port: port, Err: syscall.EADDRINUSE}
	case port < 80 && !r.Weak:
		return 0, &portfwd.BindError{Proto: r.Proto, Port: port, Err: syscall.EACCES}
	}
	l.last++
	l.list = append(l.list, portfwd.Entry{ID: l.last, Rule: r, Bound: r.Count()})
	return l.last, nil
}

// AddAuto has nobody listen. What should listen on 192.0.2.9 cannot be followed.
func (l *ruleList) AddAuto(_ context.Context, c portfwd.AutoConfig) (int, error) {
	if c.Listen == netip.AddrFrom4([4]byte{192, 0, 2, 9}) {
		return 0, errors.ErrUnsupported
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.list = append(l.list, portfwd.Entry{ID: l.last, Rule: c.Rule(0), Follows: true, Allow: c.Allow, State: portfwd.StateFollowing})
	return l.last, nil
}

func (l *ruleList) Adopt(context.Context, portfwd.Rule, *os.File) (int, error) {
	return 0, errors.ErrUnsupported
}

func (l *ruleList) Remove(id int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.list)
	l.list = slices.DeleteFunc(l.list, func(e portfwd.Entry) bool { return e.ID == id || e.By == id })
	if len(l.list) == before {
		return portfwd.ErrNoRule
	}
	return nil
}

func (l *ruleList) RemoveKill(id int) error { return l.Remove(id) }

func (l *ruleList) List() []portfwd.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

func (l *ruleList) Changes() ([]portfwd.Entry, <-chan portfwd.Change, func()) {
	return l.List(), nil, func() {}
}

// An idle instance has no engine.
type idle struct{}

func (idle) Status() engine.Status                                   { return engine.Status{} }
func (idle) Flows(context.Context, flow.Filter) ([]flow.Info, error) { return nil, engine.ErrNoEngine }
func (idle) Kill(context.Context, flow.Filter) (int, error)          { return 0, engine.ErrNoEngine }
func (idle) Restart(context.Context, string) error                   { return engine.ErrNoEngine }
func (idle) Events() (<-chan engine.Event, func())                   { return nil, func() {} }
func (idle) Statistics(context.Context) (engine.Statistics, error) {
	return engine.Statistics{}, engine.ErrNoEngine
}

// newInstance answers at a socket, with the rules of a command line of pasta, and
// one that follows a listener.
func newInstance(t *testing.T, line string) (path string, rules *ruleList) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "socket")
	rules = &ruleList{}
	if err := publish(t.Context(), rules, parsed(t, line).publications(ephemeral)); err != nil {
		t.Fatal(err)
	}
	rules.mu.Lock()
	rules.list = append(rules.list,
		portfwd.Entry{ID: 999, Follows: true, Allow: policy.PortRange(8800, 8899), State: portfwd.StateFollowing},
		portfwd.Entry{ID: 1000, By: 999, Bound: 1, Rule: portfwd.Rule{Listen: netip.MustParseAddrPort("127.0.0.1:8888")}})
	rules.last = 1000
	rules.mu.Unlock()
	s, err := api.Listen(api.Config{Name: "x", Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background(), idle{}, rules) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path, rules
}

// runPesto runs one command line and returns the status and both outputs.
func runPesto(t *testing.T, words ...string) (status int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status = pestoMain(t.Context(), "pesto", words, "v1", ephemeral, &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// initial are the ports before pesto changes them.
const initial = "-t 80-80:8080-8080 -t 127.0.0.1/443 -u 453 -T 5432 -U none"

// TestPesto changes initial. Rules that are still the same keep their ids.
func TestPesto(t *testing.T) {
	const auto, byAuto = "999 -t 8800-8899,auto", "1000 -t 127.0.0.1/8888"
	before := []string{"1 -t 80:8080", "2 -t 127.0.0.1/443", "3 -u 453", "4 -T 5432", auto, byAuto}
	with := func(more ...string) []string { return append(slices.Clone(before), more...) }
	for _, tt := range []struct {
		line string
		want []string
	}{
		{"", before},
		{"-s", before},
		{"-A -t 81", with("1001 -t 81")},
		{"--add --tcp-ports 8000-8010:8100-8110,~8005", with("1001 -t 8000-8004:8100-8104", "1002 -t 8006-8010:8106-8110")},
		{"-A -t %eth0/81 -u [::1]/454:[2001:db8::1]/55", with("1001 -t %eth0/81", "1002 -u ::1/454:[2001:db8::1]/55")},
		{"-A -t 192.0.2.1%eth0/81:10.0.2.7/82", with("1001 -t 192.0.2.1%eth0/81:10.0.2.7/82")},
		{"-D -t 80-80:8080-8080", before[1:]},
		{"-D -t 127.0.0.1/443 -u 453 -T 5432", []string{before[0], auto, byAuto}},
		{"-D -t 80:8080 -A -t 80:8081", append(before[1:len(before):len(before)], "1001 -t 80:8081")},
		{"-D -t 80:8080 -A -t 80:8080", before},
		{"-A -t 81 -D -t 81", before},
		{"-A -t 81 -t 82 -D -t 81", with("1001 -t 82")},
		{"-C HOST", []string{before[3]}},
		{"-C splice", []string{before[0], before[1], before[2], auto, byAuto}},
		{"-C HOST -t 82", []string{before[3], "1001 -t 82"}},
		{"-C HOST -C SPLICE", nil},
		{"-t 82", []string{before[3], "1001 -t 82"}},
		{"-t none", []string{before[3]}},
		{"-t 80:8080 -u 453 -t 83", []string{before[0], before[2], before[3], "1001 -t 83"}},
		{"-T 99", []string{before[0], before[1], before[2], auto, byAuto, "1001 -T 99"}},
		{"-T none -u 454", []string{"1001 -u 454"}},
		{"-t 84 -A -t 85", []string{before[3], "1001 -t 84", "1002 -t 85"}},
		{"-t ~100-65535", []string{before[3], "1001 -t 1-99"}},
		{"-t ~100-65535 -D -t ~100-65535", []string{before[3]}},

		{"-A -t auto", with("1001 -t auto")},
		{"-A -t auto -u 127.0.0.1/auto,8000-8010,~8005 -T auto -U auto,~53", with("1001 -t auto", "1002 -u 127.0.0.1/8000-8004,8006-8010,auto", "1003 -T auto", "1004 -U 1-52,54-32767,61000-65535,auto")},
		{"-A -t 8800-8899,auto -t auto,8800-8899", before},
		{"-A -t auto -t auto -D -t auto", before},
		{"-A -t auto -t 81", with("1001 -t 81", "1002 -t auto")},
		{"-D -t 8800-8899,auto", before[:4]},
		{"-D -t 8800-8899,auto -A -t 8800-8899,auto", before},
		{"-t 8800-8899,auto", []string{before[3], auto, byAuto}},
		{"-t auto", []string{before[3], "1001 -t auto"}},
		{"-C HOST -t auto,~80 -A -T auto", []string{before[3], "1001 -t 1-79,81-65535,auto", "1002 -T auto"}},
	} {
		path, rules := newInstance(t, initial)
		words := append(strings.Fields(tt.line), path)
		status, _, errs := runPesto(t, words...)
		if status != 0 {
			t.Errorf("%s: status %d: %s", tt.line, status, errs)
			continue
		}
		if got, want := described(rules), slices.Sorted(slices.Values(tt.want)); !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.line, got, want)
		}
	}
}

// TestPestoExcluded takes back an auto of pasta's own options, which leaves out what
// the others name.
func TestPestoExcluded(t *testing.T) {
	path, rules := newInstance(t, "-t 80 -u none -T none -U none")
	if _, err := rules.AddAuto(t.Context(), parsed(t, "-t 80 -t auto").automatic(ephemeral)[0]); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := runPesto(t, "-D", "-t", "auto", path); status != 0 {
		t.Errorf("status %d: %s", status, errs)
	}
	if got, want := described(rules), []string{"1 -t 80", "1000 -t 127.0.0.1/8888", "999 -t 8800-8899,auto"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// described returns the rules with their ids, in the order of their texts.
func described(l *ruleList) []string {
	var list []string
	for _, e := range l.List() {
		r := api.Rule{RuleSpec: api.SpecOf(&e.Rule)}
		if e.Follows {
			r.Follows = e.Allow.String()
		}
		list = append(list, strconv.Itoa(e.ID)+" "+optionText(&r))
	}
	slices.Sort(list)
	return list
}

// TestPestoFails wants nothing changed when something is wrong, but for new ids of
// rules that had to be put back.
func TestPestoFails(t *testing.T) {
	for _, tt := range []struct {
		line, want string
		again      bool // rules were put back
	}{
		{"-A -t 9000-9000:80-80", "Failed to bind port 9000 (Address already in use) for option '-t 9000-9000:80-80'", false},
		{"-A -t 81 -t 80:1", "Failed to bind port 80 (Address already in use) for option '-t 80:1'", false},
		{"-A -u 53", "Failed to bind port 53 (Permission denied) for option '-u 53'", false},
		{"-t 81 -t 9000", "Failed to bind port 9000 (Address already in use) for option '-t 9000'", true},
		{"-t 81 -t ~1-9000", "Failed to bind any port for '-t ~1-9000'", true},
		{"-C HOST -A -t 81 -D -t 82", "No such rule for option '-t 82'\nhint: pesto --show lists", false},
		{"-D -t 80", "No such rule for option '-t 80'", false},
		{"-D -t ~80", "No such rule for option '-t ~80'", false},
		{"-D -t auto", "No such rule for option '-t auto'\nhint: pesto --show lists", false},
		{"-D -t 127.0.0.1/8888", "No such rule for option '-t 127.0.0.1/8888'", false},
		{"-A -t auto -t 9000", "Failed to bind port 9000 (Address already in use) for option '-t 9000'", false},
		{"-t auto -t 192.0.2.9/auto", "option '-t 192.0.2.9/auto': ", true},
		{"-A -t all,auto", "Invalid port specifier all,auto: either all or auto", false},
		{"-A -t auto,80:81", "Invalid port specifier auto,80:81: auto cannot be together with", false},
		{"-A -T 127.0.0.1/auto", "Invalid port specifier 127.0.0.1/auto: a listening address", false},
		{"-A -t 80-70", "Invalid port specifier 80-70: a range ends", false},
		{"-A -T 127.0.0.1/80", "Invalid port specifier 127.0.0.1/80: a listening address", false},
		{"-C x", "x: no such table, want HOST or SPLICE", false},
		{"--bogus", "pesto: unrecognized option '--bogus'\nUsage: pesto ", false},
		{"second", "PATH of pasta's control socket expected", false},
	} {
		path, rules := newInstance(t, initial)
		before := described(rules)
		status, out, errs := runPesto(t, append(strings.Fields(tt.line), path)...)
		if status != 1 || out != "" || !strings.HasPrefix(errs, tt.want) {
			t.Errorf("%s: got status %d, output %q, error %q, want %q", tt.line, status, out, errs, tt.want)
		}
		after := described(rules)
		if tt.again {
			before = slices.DeleteFunc(before, func(s string) bool { return strings.HasPrefix(s, "1000 ") }) // nobody follows here
			before, after = withoutIDs(before), withoutIDs(after)
		}
		if !slices.Equal(after, before) {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.line, after, before)
		}
	}
	if status, _, errs := runPesto(t, "/nonexistent"); status != 1 || !strings.Contains(errs, "hint: pasta makes the socket") {
		t.Errorf("nobody there: got status %d, %q", status, errs)
	}
}

// withoutIDs takes the ids off what described returns.
func withoutIDs(list []string) []string {
	var texts []string
	for _, s := range list {
		_, text, _ := strings.Cut(s, " ")
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}

func TestPestoShow(t *testing.T) {
	path, rules := newInstance(t, initial)
	rules.mu.Lock()
	rules.list[1].State, rules.list[1].Err = portfwd.StateWaiting, "no address"
	rules.list[2].Bound = 0
	rules.mu.Unlock()
	const want = `HOST
  -t 80:8080
  -t 127.0.0.1/443  # waiting, no address
  -u 453  # 0 of 1 ports
  -t 8800-8899,auto
  -t 127.0.0.1/8888  # auto
SPLICE
  -T 5432
`
	if status, out, errs := runPesto(t, path); status != 0 || out != want {
		t.Errorf("got status %d, %s\n%s, want\n%s", status, errs, out, want)
	}
	for line, want := range map[string]string{"--help": PestoHelp, "--version": pestoVersionText("v1")} {
		if status, out, _ := runPesto(t, line); status != 0 || out != want {
			t.Errorf("%s: got status %d, %q, want %q", line, status, out, want)
		}
	}
}

// TestPestoHelp wants each option in the help and in the man page.
func TestPestoHelp(t *testing.T) {
	names := []string{"show", "add", "delete", "clear", "tcp-ports", "udp-ports", "tcp-ns", "udp-ns", "help", "version"}
	for where, text := range map[string]string{"help": PestoHelp, "man page": readText("../../../../docs/man/taproot-pesto.1")} {
		var found []string
		for _, m := range regexp.MustCompile(`(?m)^(?:  (?:-\w, |    )--|\.It Fl (?:\w , Fl )?-)([a-z0-9-]+)`).FindAllStringSubmatch(text, -1) {
			found = append(found, m[1])
		}
		compareNames(t, where, found, slices.Clone(names))
	}
	for line := range strings.SplitSeq(PestoHelp, "\n") {
		if len(line) > 80 {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
}

// TestCompleted wants rules that come later to be as those of the start.
func TestCompleted(t *testing.T) {
	for line, want := range map[string]portfwd.Rule{
		"":                   {},
		"--host-lo-to-ns-lo": {Loopback: true},
		"--splice-only":      {Loopback: true, Local: true},
		"--freebind":         {Freebind: true},
	} {
		o := parsed(t, line)
		if got := o.complete(portfwd.Rule{}); got != want {
			t.Errorf("%q: got %+v, want %+v", line, got, want)
		}
		out := portfwd.Rule{Direction: portfwd.Outbound}
		if got := o.complete(out); got != out {
			t.Errorf("%q: got %+v, want no change of an outbound rule", line, got)
		}
	}
}

func FuzzPesto(f *testing.F) {
	f.Add("-A -t 80-80:80-80 /x")
	f.Add("-C HOST -D -u 53,~54 -T 5432 /x")
	f.Fuzz(func(t *testing.T, line string) {
		p, err := parsePesto(strings.Split(line, " "), ephemeral)
		if err != nil {
			return
		}
		var way change
		for _, s := range p.steps {
			_ = way.take(s)
		}
	})
}
