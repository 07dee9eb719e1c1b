package pasta

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"taproot/portfwd"
)

// published returns what a command line publishes for good, "weak" behind what
// may be left out.
func published(t *testing.T, line string) []string {
	t.Helper()
	var list []string
	for _, p := range parsed(t, line).publications(ephemeral) {
		if p.optional {
			continue
		}
		for _, r := range p.rules {
			s := r.String()
			if r.Loopback {
				s += " loopback"
			}
			if r.Weak || p.weak {
				s += " weak"
			}
			list = append(list, s)
		}
	}
	return list
}

func TestPublications(t *testing.T) {
	for line, want := range map[string][]string{
		"":                         nil,
		"-t none -u auto":          nil,
		"-t 8000-8010,auto":        nil,
		"-t 80":                    {"inbound tcp :80 to :80"},
		"-u 53":                    {"inbound udp :53 to :53"},
		"-T 5432":                  {"outbound tcp :5432 to :5432"},
		"-U 53:5353":               {"outbound udp :53 to :5353"},
		"-T 80:127.0.0.1/81":       {"outbound tcp :80 to 127.0.0.1:81"},
		"-t 80-90:8080-8090":       {"inbound tcp :80-90 to :8080"},
		"-t 80,443:8443":           {"inbound tcp :80 to :80", "inbound tcp :443 to :8443"},
		"-t 80 -t 81":              {"inbound tcp :80 to :80", "inbound tcp :81 to :81"},
		"-t 192.0.2.1%eth0/80":     {"inbound tcp 192.0.2.1:80%eth0 to :80"},
		"-t 80:10.0.2.7/8080":      {"inbound tcp :80 to 10.0.2.7:8080"},
		"-t 80:127.0.0.1":          {"inbound tcp :80 to 127.0.0.1:80 loopback"},
		"-t 5-25,~10-20":           {"inbound tcp :5-9 to :5", "inbound tcp :21-25 to :21"},
		"-t 5-25:105-125,~10-20":   {"inbound tcp :5-9 to :105", "inbound tcp :21-25 to :121"},
		"-t 5,~5":                  nil,
		"-t 80 --host-lo-to-ns-lo": {"inbound tcp :80 to :80 loopback"},
		"-t 80:10.0.2.7 -T 81 --host-lo-to-ns-lo": {"inbound tcp :80 to 10.0.2.7:80", "outbound tcp :81 to :81"},
		"-t all":        {"inbound tcp :1-32767 to :1 weak", "inbound tcp :61000-65535 to :61000 weak"},
		"-t ~1-32767":   {"inbound tcp :61000-65535 to :61000 weak"},
		"-t 192.0.2.1/": {"inbound tcp 192.0.2.1:1-32767 to :1 weak", "inbound tcp 192.0.2.1:61000-65535 to :61000 weak"},
		"-t 80:90,all:10.0.2.7,~100-65535": {"inbound tcp :80 to :90",
			"inbound tcp :1-79 to 10.0.2.7:1 weak", "inbound tcp :81-99 to 10.0.2.7:81 weak"},
		"--splice-only -t 80": {"inbound tcp loopback:80 to :80 loopback"},
	} {
		if got := published(t, line); !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", line, got, want)
		}
	}
}

// TestCompanions wants the UDP ports of the same numbers to come along, if
// nothing is said of UDP.
func TestCompanions(t *testing.T) {
	for line, want := range map[string][]string{
		"":                              nil,
		"-t auto -T none":               nil,
		"-t 80":                         {"inbound udp :80 to :80"},
		"-t 127.0.0.1/80-90:8080-8090":  {"inbound udp :80-90 to :80"},
		"-T 5432:15432":                 {"outbound udp :5432 to :5432"},
		"-t 80 -u none":                 nil,
		"-t 80 -T 81 -u auto":           {"outbound udp :81 to :81"},
		"-t 80 -u 53":                   nil,
		"-t ~1-1000":                    nil,
		"-t 80 -t 81,~82 -U none -T 99": {"inbound udp :80 to :80", "inbound udp :81 to :81"},
	} {
		var got []string
		for _, p := range parsed(t, line).publications(ephemeral) {
			if !p.optional {
				continue
			}
			for _, r := range p.rules {
				got = append(got, r.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
	busy := &fakeTable{refuse: map[uint16]error{80: syscall.EADDRINUSE}}
	p := publication{rules: []portfwd.Rule{{Ports: 1}}, weak: true, optional: true}
	p.rules[0].Listen = netip.AddrPortFrom(netip.Addr{}, 80)
	if err := p.publish(t.Context(), busy); err != nil {
		t.Errorf("a port that is taken: got %v, want nil", err)
	}
}

// A fakeTable refuses rules that begin with one of its ports.
type fakeTable struct {
	refuse map[uint16]error
	added  []string
}

func (f *fakeTable) Add(_ context.Context, r portfwd.Rule) (int, error) {
	if err := f.refuse[r.Listen.Port()]; err != nil {
		return 0, err
	}
	f.added = append(f.added, r.String())
	return len(f.added), nil
}

func (f *fakeTable) AddAuto(context.Context, portfwd.AutoConfig) (int, error) {
	return 0, errors.ErrUnsupported
}

func TestPublish(t *testing.T) {
	taken := func(port uint16, err error) map[uint16]error {
		return map[uint16]error{port: &portfwd.BindError{Port: port, Err: err}}
	}
	for _, tt := range []struct {
		line   string
		refuse map[uint16]error
		added  int
		want   string // error
	}{
		{"-t 80 -u 53", nil, 2, ""},
		{"-t 5000-5000:5000-5000", taken(5000, syscall.EADDRINUSE), 0,
			"Failed to bind port 5000 (Address already in use) for option '-t 5000-5000:5000-5000'"},
		{"-u 1.1.1.1/53", taken(53, syscall.EADDRNOTAVAIL), 0, "Failed to bind port 53 (Cannot assign requested address) for option '-u 1.1.1.1/53'"},
		{"-T 5432", map[uint16]error{5432: errors.New("no namespace")}, 0, "option '-T 5432': no namespace"},
		{"-t ~80", taken(1, syscall.EACCES), 2, ""},
		{"-t 81-65535:81-65535,~82-65535,~80 -u none", nil, 1, ""},
		{"-t ~80-65535", taken(1, syscall.EACCES), 0, "Failed to bind any port for '-t ~80-65535'"},
		{"--splice-only -t 8080", nil, 2, ""},
		{"--splice-only -t 8080", taken(8080, syscall.EADDRINUSE), 0, "Failed to bind port 8080 (Address already in use) for option '-t 8080'"},
	} {
		to := &fakeTable{refuse: tt.refuse}
		err := publish(t.Context(), to, parsed(t, tt.line).publications(ephemeral))
		if err == nil && tt.want != "" || err != nil && err.Error() != tt.want {
			t.Errorf("%s: got %v, want %q", tt.line, err, tt.want)
		}
		if len(to.added) != tt.added {
			t.Errorf("%s: added %q, want %d", tt.line, to.added, tt.added)
		}
		if hint := interface{ Hint() string }(nil); strings.Contains(tt.want, "Permission") && !errors.As(err, &hint) {
			t.Errorf("%s: %v has no hint", tt.line, err)
		}
	}
}

func TestParseEphemeral(t *testing.T) {
	for text, want := range map[string]portRange{
		"32768\t60999\n": {32768, 60999},
		"1024 65535":     {1024, 65535},
		"":               defaultEphemeral,
		"5 4":            defaultEphemeral,
		"1 2 3":          defaultEphemeral,
		"a b":            defaultEphemeral,
		"0 65536":        defaultEphemeral,
	} {
		if got := parseEphemeral(text); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}
