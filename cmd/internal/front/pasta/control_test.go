package pasta

import (
	"strings"
	"testing"
)

// TestClosed wants the socket that nobody has asked for to keep closed what the
// options close.
func TestClosed(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", ""},
		{"-t none -u none", ""},
		{"-t 80 -T auto -U all", ""},
		{"-T none", "outbound tcp -T none, outbound udp -T none"},
		{"-T none -U auto", "outbound tcp -T none"},
		{"-T 5432", "outbound tcp -T 5432, outbound udp -T 5432"},
		{"-T 8000-8010,auto -U auto", "outbound tcp -T 8000-8010,auto"},
		{"-T ~5432 -U auto", "outbound tcp -T ~5432"},
		{"-T auto -U ~53", "outbound udp -U ~53"},
		{"--no-map-gw", "outbound tcp --no-map-gw, outbound udp --no-map-gw"},
		{"--map-host-loopback none -T none", "outbound tcp --map-host-loopback none, outbound udp --map-host-loopback none"},
		{"--no-tcp", "inbound tcp --no-tcp, outbound tcp --no-tcp"},
		{"--no-udp --no-map-gw", "inbound udp --no-udp, outbound tcp --no-map-gw, outbound udp --no-udp"},
	} {
		o, err := parse(strings.Fields(tt.args))
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		var got []string
		for _, c := range o.closed() {
			got = append(got, c.Direction.String()+" "+c.Proto.String()+" "+c.Option)
		}
		if got := strings.Join(got, ", "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.args, got, tt.want)
		}
	}
}
