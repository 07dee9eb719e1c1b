package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"taproot/test/lab"
)

// interfaces runs our own program in the guest and returns its lines.
func interfaces(l *lab.Lab, options ...string) []string {
	return strings.Split(strings.TrimSpace(guestProgram(l, options, "addresses").MustRun()), "\n")
}

func TestInterface(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.IPv6)
	l := newLab(t)
	const mac = "02:00:00:00:00:07"
	tests := []struct {
		name    string
		options []string
		want    string
	}{
		{"default", nil, "tap0 1500 true " + mac + " 10.0.2.100/24 fd00::64/64"},
		{"mtu", []string{"--mtu=65520"}, "tap0 65520 true " + mac + " 10.0.2.100/24 fd00::64/64"},
		{"name", []string{"--ifname=eth7"}, "eth7 1500 true " + mac + " 10.0.2.100/24 fd00::64/64"},
		{"plain", []string{"--offload=off"}, "tap0 1500 true " + mac + " 10.0.2.100/24 fd00::64/64"},
		{"net", []string{"--net=192.168.77.0/24"}, "tap0 1500 true " + mac + " 192.168.77.100/24 fd00::64/64"},
		{"net6", []string{"--net6=fd12:3456::/64"}, "tap0 1500 true " + mac + " 10.0.2.100/24 fd12:3456::64/64"},
		{"no ipv6", []string{"--ipv6=off"}, "tap0 1500 true " + mac + " 10.0.2.100/24"},
		{"no ipv4", []string{"--ipv4=off"}, "tap0 1500 true " + mac + " fd00::64/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := interfaces(l.With(t), append(tt.options, "--mac="+mac)...)
			want := []string{"lo 65536 true  127.0.0.1/8 ::1/128", tt.want}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestOtherNetworks uses networks of other sizes than the default's.
func TestOtherNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	web := serveWeb(t, l.Outside)
	for _, option := range []string{"--net=172.16.0.0/12", "--net=192.168.3.0/25", "--ipv6=off"} {
		t.Run(option, func(t *testing.T) {
			lab.NeedProgram(t, "curl")
			got := guest(l.With(t), []string{option}, "curl", "-sS", "--fail", url(lab.Outside4, web, "/peer")).MustRun()
			wantText(t, "the server saw", got, lab.Host4)
		})
	}
}

func TestInside(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := newShell(t, l)
	wantText(t, "ping_group_range", strings.Join(strings.Fields(s.must("cat /proc/sys/net/ipv4/ping_group_range")), " "), "0 0")
	wantContains(t, "resolv.conf", s.must("cat /etc/resolv.conf"), "nameserver "+resolver4, "search example.test")
	hosts := s.must("cat /etc/hosts")
	wantContains(t, "hosts", hosts, gateway4, "host.taproot.internal", "localhost")
	l.Host.Command("grep", "-q", lab.Outside4, "/etc/resolv.conf").MustRun()
	if err := l.Host.Command("grep", "-q", "taproot", "/etc/hosts").Run(); err == nil {
		t.Error("the host's own hosts file was written")
	}
}

// TestClash gives the host a network that overlaps the guest's.
func TestClash(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.Host.Addresses(lab.HostInterface, "10.0.2.55/24")
	c := guest(l, nil, "true")
	c.MustRun()
	wantContains(t, "warning", c.Err(), "taproot: ", "10.0.2.0/24", "taproot: hint: ")

	c = guestProgram(l, []string{"--net=auto"}, "addresses")
	out := c.MustRun()
	wantText(t, "no warning", c.Err(), "")
	taken := netip.MustParsePrefix("10.0.2.0/24")
	for _, word := range strings.Fields(out) {
		if p, err := netip.ParsePrefix(word); err == nil && p.Overlaps(taken) {
			t.Errorf("--net=auto chose %v, which is the host's", p)
		}
	}
}

// leaseScript prints what a DHCP client has learnt.
const leaseScript = `#!/bin/sh
env | grep -E '^(ip|router|dns|mask|subnet|mtu|search|domain|new_[a-z0-9_]*)=' | sort
`

func TestUdhcpc(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "udhcpc")
	l := newLab(t)
	script := l.WriteFile("lease.sh", leaseScript)
	l.Outside.Command("chmod", "755", script).MustRun()
	out := guest(l, nil, "udhcpc", "-i", "tap0", "-f", "-q", "-n", "-t", "13", "-O", "mtu", "-O", "search", "-s", script).MustRun()
	wantContains(t, "lease", out, "ip="+guest4+"\n", "router="+gateway4+"\n", "dns="+resolver4+"\n", "subnet=255.255.255.0\n", "mtu=1500\n")
}

func TestDhclient(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dhclient")
	tests := []struct {
		name  string
		args  []string
		want  []string
		needs []lab.Feature
	}{
		{"ipv4", []string{"-4"}, []string{"new_ip_address=" + guest4 + "\n", "new_routers=" + gateway4 + "\n", "new_domain_name_servers=" + resolver4 + "\n"}, nil},
		{"ipv6 address", []string{"-6"}, []string{"new_ip6_address=" + guest6 + "\n", "new_dhcp6_name_servers=" + resolver6 + "\n"}, []lab.Feature{lab.IPv6}},
		{"ipv6 stateless", []string{"-6", "-S"}, []string{"new_dhcp6_name_servers=" + resolver6 + "\n"}, []lab.Feature{lab.IPv6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lab.Need(t, tt.needs...)
			l := newLab(t)
			script := l.WriteFile("lease.sh", leaseScript)
			l.Outside.Command("chmod", "755", script).MustRun()
			args := append([]string{"dhclient", "-1", "-d", "-sf", script, "-lf", l.Dir + "/leases", "-pf", l.Dir + "/pid", "-cf", "/dev/null"}, tt.args...)
			c := guest(l, nil, append(args, "tap0")...).MustStart()
			l.Eventually("a lease", func() bool {
				for _, want := range tt.want {
					if !strings.Contains(c.Out(), want) {
						return false
					}
				}
				return true
			})
		})
	}
}

func TestRouterAdvertisement(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.IPv6)
	lab.NeedProgram(t, "rdisc6")
	l := newLab(t)
	out := guest(l, nil, "rdisc6", "-1", "-r", "20", "-w", "2000", "tap0").MustRun()
	wantContains(t, "advertisement", out, "fd00::/64", resolver6, "1500 bytes")
}

// TestReplacedFiles has the host replace files that the guest sees its own in place of.
// It keeps seeing its own, unless it has uncovered them itself.
func TestReplacedFiles(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	host := func(line string) {
		t.Helper()
		l.Host.Command("sh", "-c", "cd /etc && "+line).MustRun()
	}
	const theirs = "nameserver 192.0.2.99"
	s := newShell(t, l, "--dns="+lab.Outside4) // which follows no resolv.conf
	resolvConf, hosts := s.must("cat /etc/resolv.conf"), s.must("cat /etc/hosts")
	wantContains(t, "resolv.conf", resolvConf, "nameserver "+resolver4)
	wantCovered := func() {
		t.Helper()
		l.Eventually("the guest sees its own files", func() bool {
			return s.must("cat /etc/resolv.conf 2>/dev/null; true") == resolvConf && s.must("cat /etc/hosts 2>/dev/null; true") == hosts
		})
	}
	for _, line := range []string{
		"echo '" + theirs + "' >new && mv -f new resolv.conf",
		"echo '" + theirs + "' >new && mv -f new resolv.conf", // again
		"echo '192.0.2.99 elsewhere' >new && mv -f new hosts",
		"rm -f resolv.conf && echo '" + theirs + "' >resolv.conf",
		"mv resolv.conf away && echo '" + theirs + "' >resolv.conf",
		"echo '" + theirs + "' >other && ln -s other new && mv -fT new resolv.conf",
		"echo '" + theirs + "' >new && mv -f new other",
	} {
		host(line)
		// Nobody else sees ours.
		if got := l.Host.Command("cat", "/etc/resolv.conf").MustRun(); got == resolvConf {
			t.Errorf("%s: the host sees the guest's", line)
		}
		wantCovered()
	}
	s.must("umount /etc/hosts")
	host("echo '" + theirs + "' >new && mv -f new resolv.conf")
	l.Eventually("resolv.conf is covered again", func() bool { return s.must("cat /etc/resolv.conf 2>/dev/null; true") == resolvConf })
	wantContains(t, "hosts that the guest has uncovered", s.must("cat /etc/hosts"), "192.0.2.99 elsewhere")
}
