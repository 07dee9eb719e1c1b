package e2e

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestSlirpHelp: what callers look for before they pass an option.
func TestSlirpHelp(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		for _, option := range []string{"--help", "-h"} {
			got := s.command(option).MustRun()
			wantContains(t, option, got, "--disable-host-loopback", "--mtu", "--enable-sandbox", "--enable-seccomp",
				"--cidr", "--outbound-addr", "--enable-ipv6", "--api-socket", "--netns-type", "--userns-path")
			// The rootless scripts of Docker and containerd: grep -qw -- --netns-type.
			if !regexp.MustCompile(`(?m)(?:^|\W)--netns-type(?:\W|$)`).MatchString(got) {
				t.Errorf("%s: got %q, want --netns-type as a word", option, got)
			}
		}
		c := s.session.Command("sh", "-c", s.path+" --help | grep -qw -- --netns-type")
		c.MustRun()
	})
}

// TestSlirpVersion: the shape that podman info and the original's tests want.
func TestSlirpVersion(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		for _, option := range []string{"--version", "-v"} {
			got := s.command(option).MustRun()
			if !regexp.MustCompile(`^slirp4netns version \d+\.\d+\.\d+\n`).MatchString(got) {
				t.Errorf("%s: got %q, want slirp4netns version X.Y.Z", option, got)
			}
			m := regexp.MustCompile(`(?m)^SLIRP_CONFIG_VERSION_MAX: (\d+)$`).FindStringSubmatch(got)
			if m == nil {
				t.Errorf("%s: got %q, want a line SLIRP_CONFIG_VERSION_MAX", option, got)
				continue
			}
			if n, err := strconv.Atoi(m[1]); err != nil || n < 3 {
				t.Errorf("%s: SLIRP_CONFIG_VERSION_MAX: got %s, want 3 or more, for --disable-dns", option, m[1])
			}
		}
	})
}

// TestSlirpMisuse: each error is status 1 with its reason on standard error, or
// with the usage on standard output, or both.
func TestSlirpMisuse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		args  string // PID stands for a target's process id
		usage bool
		want  string // on standard error; only wording that is getopt's own
	}{
		{"nothing", "", true, ""},
		{"no tap", "PID", true, ""},
		{"unknown option", "--frobnicate PID tap0", true, "unrecognized option '--frobnicate'"},
		{"unknown letter", "-x PID tap0", true, "invalid option -- 'x'"},
		{"no argument", "PID tap0 --mtu", true, "option '--mtu' requires an argument"},
		{"no argument for a letter", "PID tap0 -m", true, "option requires an argument -- 'm'"},
		{"needless argument", "--configure=yes PID tap0", true, "option '--configure' doesn't allow an argument"},
		{"ambiguous", "--disable PID tap0", true, "option '--disable' is ambiguous"},
		{"options after the end", "-- --help", true, ""},
		{"mac without configure", "--macaddress=02:00:00:00:00:01 PID tap0", true, ""},
		{"cidr too small", "--cidr=10.0.2.0/26 PID tap0", false, ""},
		{"cidr too small for anything", "--cidr=10.0.2.0/32 PID tap0", false, ""},
		{"cidr of all", "--cidr=0.0.0.0/0 PID tap0", false, ""},
		{"cidr with host bits", "--cidr=10.0.2.1/24 PID tap0", false, ""},
		{"cidr without length", "--cidr=10.0.2.0 PID tap0", false, ""},
		{"cidr of the other family", "--cidr=fd00::/64 PID tap0", false, ""},
		{"cidr no address", "--cidr=foo PID tap0", false, ""},
		{"mtu 0", "--mtu=0 PID tap0", true, ""},
		{"mtu too large", "--mtu=65522 PID tap0", true, ""},
		{"mtu negative", "--mtu=-1 PID tap0", true, ""},
		{"mtu no number", "--mtu=x PID tap0", true, ""},
		{"ready-fd negative", "--ready-fd=-1 PID tap0", true, ""},
		{"ready-fd no number", "--ready-fd=x PID tap0", true, ""},
		{"exit-fd negative", "--exit-fd=-1 PID tap0", true, ""},
		{"exit-fd no number", "--exit-fd=x PID tap0", true, ""},
		{"userns-path", "--userns-path=/nonexistent PID tap0", true, ""},
		{"outbound-addr", "--outbound-addr=nonsense PID tap0", false, ""},
		{"outbound-addr6", "--outbound-addr6=nonsense PID tap0", false, ""},
		{"mac", "--configure --macaddress=nonsense PID tap0", false, ""},
		{"target-type", "--target-type=frobnicate PID tap0", true, ""},
		{"bess and configure", "--target-type=bess --configure sock", true, ""},
		{"bess and netns-type", "--target-type=bess --netns-type=path sock", true, ""},
		{"bess and userns-path", "--target-type=bess --userns-path=/proc/self/ns/user sock", true, ""},
		{"bess and more", "--target-type=bess sock tap0", true, ""},
		{"pid 0", "--configure 0 tap0", true, ""},
		{"pid negative", "--configure -- -1 tap0", true, ""},
		{"pid no number", "--configure PIDx tap0", true, ""},
		{"pid of nobody", "--configure 2147483647 tap0", false, ""},
		{"path of nothing", "--configure --netns-type=path /nonexistent tap0", true, ""},
		{"path of a file", "--configure --netns-type=path /etc/hosts tap0", false, ""},
		{"path of another namespace", "--configure --netns-type=path /proc/self/ns/uts tap0", false, ""},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		pid := s.target(t).pid()
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				c := s.with(t).command(strings.Fields(strings.ReplaceAll(tt.args, "PID", pid))...)
				c.MustStart()
				if got := c.Status(); got != 1 {
					t.Errorf("status: got %d, want 1", got)
				}
				if usage := strings.Contains(c.Out(), "Usage:"); usage != tt.usage {
					t.Errorf("usage on standard output: got %v, want %v", usage, tt.usage)
				}
				wantContains(t, "standard error", c.Err(), tt.want)
				if c.Err() == "" && !tt.usage {
					t.Error("got neither usage nor reason")
				}
			})
		}
	})
}

// TestSlirpCommandLines: ways to write what is good.
func TestSlirpCommandLines(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, args string // PID stands for a target's process id
		mtu        int
		out        string // part of standard output, which comes at the end
	}{
		{"defaults", "PID tap0 -c", 1500, "Starting slirp"},
		{"permuted", "PID -c tap0 --mtu 1400", 1400, ""},
		{"equals", "--configure --mtu=1400 PID tap0", 1400, ""},
		{"abbreviated", "--conf --mt=1400 PID tap0", 1400, ""},
		{"letters", "-cm1400 PID tap0", 1400, ""},
		{"last counts", "-c -m 1300 -m 1400 PID tap0", 1400, ""},
		{"end of options", "-c -m 1400 -- PID tap0", 1400, ""},
		{"too many", "-c PID tap0 and more", 1500, "WARNING: too many arguments"},
		{"old name of disable-host-loopback", "-c --no-host-loopback PID tap0", 1500, "WARNING"},
		{"old name of enable-sandbox", "-c --create-sandbox PID tap0", 1500, "WARNING"},
		{"sandbox and seccomp", "-c --enable-sandbox --enable-seccomp PID tap0", 1500, "WARNING"},
		{"ipv6", "-c -6 PID tap0", 1500, "WARNING"},
		{"cidr /25", "-c --cidr=10.9.8.128/25 PID tap0", 1500, "10.9.8.228"},
		{"mtu of old", "-c --mtu=576 PID tap0", 576, ""},
		{"mtu of podman", "-c --mtu=65520 PID tap0", 65520, ""},
		{"mtu highest", "-c --mtu=65521 PID tap0", 65521, ""},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				s := s.with(t)
				to := s.target(t)
				h := s.run(t, strings.Fields(strings.ReplaceAll(tt.args, "PID", to.pid()))...)
				if got := to.link(t).MTU; got != tt.mtu {
					t.Errorf("MTU: got %d, want %d", got, tt.mtu)
				}
				h.stop(t)
				wantContains(t, "standard output", h.Out(), tt.out)
			})
		}
	})
}
