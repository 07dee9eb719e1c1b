package e2e

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"taproot/test/lab"
)

func TestPing(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "ping")
	for _, options := range [][]string{nil, {"--offload=off"}} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			l := newLab(t)
			s := newShell(t, l, options...)
			for _, f := range families {
				for _, target := range []string{f.outside, f.second, f.gateway, f.resolver} {
					t.Run(target, func(t *testing.T) {
						lab.Need(t, f.needs...)
						// With -W it waits for the second answer only twice as
						// long as the first one took.
						out := s.with(t).must("ping -n -c 2 -i 0.2 -w 40 " + target)
						wantContains(t, "ping", out, "2 received")
					})
				}
				t.Run(f.name+" large", func(t *testing.T) {
					lab.Need(t, f.needs...)
					out := s.with(t).must("ping -n -c 1 -s 4000 -W 40 " + f.outside)
					wantContains(t, "ping", out, "4008 bytes from")
				})
			}
		})
	}
}

func TestPingUnreachable(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "ping")
	l := newLab(t)
	s := newShell(t, l)
	tests := []struct {
		name, target, want string
		needs              []lab.Feature
	}{
		{"host ipv4", lab.NoHost4, "Destination Host Unreachable", nil},
		{"network ipv4", lab.NoNet4, "Destination Net Unreachable", nil},
		{"prohibited ipv4", lab.Prohibited4, "Packet filtered", nil},
		{"address ipv6", lab.NoHost6, "Address unreachable", []lab.Feature{lab.IPv6}},
		{"network ipv6", lab.NoNet6, "No route", []lab.Feature{lab.IPv6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lab.Need(t, tt.needs...)
			out, status := s.with(t).do("ping -n -c 1 -W 40 " + tt.target)
			wantContains(t, "ping", out, tt.want)
			if status != 1 {
				t.Errorf("status: got %d, want 1", status)
			}
		})
	}
}

// TestPingNotAllowed has a host whose ping_group_range leaves our user out. To
// write such a range takes a second group.
func TestPingNotAllowed(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.SubIDs)
	lab.NeedProgram(t, "ping")
	l := newLab(t)
	l.Host.Sysctl("net/ipv4/ping_group_range", "1 0")
	s := newShell(t, l)
	out, _ := s.do("ping -n -c 1 -W 40 " + lab.Outside4)
	wantContains(t, "ping", out, "Packet filtered")
	if lab.IPv6.Available() {
		out, _ = s.do("ping -n -c 1 -W 40 " + lab.Outside6)
		wantContains(t, "ping6", out, "Administratively prohibited")
	}
	check := taproot(l, "check")
	if err := check.Run(); err != nil {
		t.Errorf("check: got %v, want success: run would work", err)
	}
	wantContains(t, "check", check.Out(), "ping_group_range")
}

func TestTraceroute(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "traceroute")
	l := newLab(t)
	s := newShell(t, l)
	hops := []struct {
		name, gateway, router, outside string
		needs                          []lab.Feature
	}{
		{"-4", gateway4, lab.Router4, lab.Outside4, nil},
		{"-6", gateway6, lab.Router6, lab.Outside6, []lab.Feature{lab.IPv6}},
	}
	line := regexp.MustCompile(`(?m)^ *\d+ +(\S+)`)
	for _, h := range hops {
		for _, method := range []string{"", "-I"} {
			t.Run(h.name+method, func(t *testing.T) {
				lab.Need(t, h.needs...)
				// Without the other two numbers it does not wait for a hop that
				// takes ten times as long as the next one.
				out := s.with(t).must("traceroute " + h.name + " " + method + " -n -q 1 -w 40,10000,10000 -m 6 " + h.outside)
				var got []string
				for _, m := range line.FindAllStringSubmatch(out, -1) {
					got = append(got, m[1])
				}
				if want := []string{h.gateway, h.router, h.outside}; !slices.Equal(got, want) {
					t.Errorf("hops: got %v, want %v\n%s", got, want, out)
				}
			})
		}
	}
}
