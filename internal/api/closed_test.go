package api

import (
	"errors"
	"strings"
	"testing"

	"taproot/portfwd"
	"taproot/stack/flow"
)

// TestClosed wants rules refused that an option of who started the instance has
// closed, whatever the words, with all that was to come with them.
func TestClosed(t *testing.T) {
	b := newBenchOf(t, Config{Name: "slirp4netns-7", Closed: append(ClosedHost("--disable-host-loopback"),
		Closed{portfwd.Inbound, flow.UDP, "--no-udp"})})
	for _, tt := range []struct {
		name   string
		what   Publication
		option string // "" for what is open
	}{
		{"a port", Publication{Publish: []string{"127.0.0.1::80"}}, ""},
		{"of UDP", Publication{Publish: []string{"127.0.0.1::80/udp"}}, "--no-udp"},
		{"with one that is open", Publication{Publish: []string{"127.0.0.1::80/tcp,udp"}}, "--no-udp"},
		{"automatic", Publication{Publish: []string{"auto/udp"}}, "--no-udp"},
		{"reached", Publication{Reach: []string{"5432"}}, "--disable-host-loopback"},
		{"reached, after one that is open", Publication{Publish: []string{"127.0.0.1::80"}, Reach: []string{"5432"}}, "--disable-host-loopback"},
		{"a Unix socket", Publication{Reach: []string{"unix:/run/db.sock:5432"}}, "--disable-host-loopback"},
		{"as fields", Publication{Rules: []RuleSpec{{Direction: "outbound", Listen: End{Port: 80}, Target: End{Port: 80}}}}, "--disable-host-loopback"},
		{"that follows", Publication{Rules: []RuleSpec{{Direction: "outbound", Follows: "all"}}}, "--disable-host-loopback"},
	} {
		before := len(b.table.List())
		_, err := b.Publish(t.Context(), tt.what)
		if tt.option == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		f := (*Failure)(nil)
		if !errors.As(err, &f) || f.Code != CodeForbidden || !strings.Contains(f.Message, tt.option) || f.Remedy == "" {
			t.Errorf("%s: got error %v, want one that names %s", tt.name, err, tt.option)
		}
		if after := len(b.table.List()); after != before {
			t.Errorf("%s: there are %d rules, want %d", tt.name, after, before)
		}
	}
}
