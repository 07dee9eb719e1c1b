package front

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/stack/policy"
	"taproot/tap"
	"taproot/userns"
)

// A wanted configuration, with its parts by type.
type wanted struct {
	engine.Config
	net   plan.Offsets
	guest userns.Config
}

func TestRunConfig(t *testing.T) {
	prefix := netip.MustParsePrefix
	server := netip.MustParseAddrPort
	tests := []struct {
		args string
		want func(*wanted) // what differs from the defaults
	}{
		{"x", func(*wanted) {}},
		{"-- x", func(*wanted) {}},
		{"x -v --net=auto", func(c *wanted) { c.guest.Command = []string{"x", "-v", "--net=auto"} }},
		{"--net=auto --net6=auto x", func(c *wanted) { c.net.Net4.Auto, c.net.Net6.Auto = true, true }},
		{"--net 172.16.0.0/25 x", func(c *wanted) { c.net.Net4.Prefix = prefix("172.16.0.0/25") }},
		{"--net6=fd12::/121 x", func(c *wanted) { c.net.Net6.Prefix = prefix("fd12::/121") }},
		{"--ipv4=off x", func(c *wanted) { c.net.Net4.Off = true }},
		{"--ipv6=off --mtu=576 x", func(c *wanted) { c.net.Net6.Off, c.net.MTU = true, 576 }},
		{"--ipv6=off --ipv6=on x", func(*wanted) {}},
		{"--mtu=65521 x", func(c *wanted) { c.net.MTU = 65521 }},
		{"--ifname=eth0 x", func(c *wanted) { c.net.Interface = "eth0" }},
		{"--mac=02:00:00:00:00:07 x", func(c *wanted) { c.net.MAC = []byte{2, 0, 0, 0, 0, 7} }},
		{"--dns=auto x", func(*wanted) {}},
		{"--dns=off x", func(c *wanted) { c.DNS.Off, c.Announce.DNS = true, false }},
		{"--dns=192.0.2.1 --dns=[2001:db8::1]:5353 x", func(c *wanted) {
			c.DNS.Servers = []netip.AddrPort{server("192.0.2.1:53"), server("[2001:db8::1]:5353")}
		}},
		{"--host-loopback=80,90-99 --host-loopback=22 x", func(c *wanted) {
			c.HostLoopback = ports(t, "22,80,90-99")
		}},
		{"--host-loopback=none --allow-host=all x", func(c *wanted) { c.AllowHost = ports(t, "all") }},
		{"--allow-link-local x", func(c *wanted) { c.AllowLinkLocal = true }},
		{"-p 8080:80 --reach=5432 --publish=80/udp,source=preserve --source=gateway x", func(c *wanted) {
			c.Rules = []portfwd.Rule{
				{Local: true, Listen: port(8080), Target: port(80), Ports: 1, Source: portfwd.SourceGateway},
				{Local: true, Proto: flow.UDP, Target: port(80), Ports: 1},
				{Direction: portfwd.Outbound, Listen: port(5432), Target: port(5432), Ports: 1},
			}
		}},
		{"-p auto:80/tcp x", func(c *wanted) {
			c.Auto = []portfwd.AutoConfig{{Local: true, Allow: ports(t, "80")}}
		}},
		{"--offload=off x", func(c *wanted) { c.Offload = tap.OffloadOff }},
		{"--keep-id x", func(c *wanted) { c.guest.Identity = userns.IdentityKeep }},
		{"--map-auto x", func(c *wanted) { c.guest.Identity = userns.IdentityAuto }},
		{"--pid --ipc --uts x", func(c *wanted) { c.guest.PID, c.guest.IPC, c.guest.UTS = true, true, true }},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			want := wanted{net: plan.Offsets{Interface: "tap0", MTU: 1500}, guest: userns.Config{Command: []string{"x"}}}
			want.Announce, want.Refuse = engine.Announce{DNS: true, Search: true}, true
			tt.want(&want)
			want.Plan = want.net
			var c call
			if status := c.main(append([]string{"run"}, strings.Fields(tt.args)...)...); status != 0 {
				t.Fatalf("status %d: %s", status, &c.stderr)
			}
			got := c.config
			if got.Log == nil || got.Warn == nil {
				t.Error("the log or the warnings go nowhere")
			}
			got.Log, got.Warn, got.Ready = nil, nil, nil
			if !reflect.DeepEqual(got, want.Config) || !reflect.DeepEqual(c.guest, want.guest) {
				t.Errorf("got %+v and %+v, want %+v and %+v", got, c.guest, want.Config, want.guest)
			}
		})
	}
}

func port(n uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, n) }

func ports(t *testing.T, s string) policy.Ports {
	t.Helper()
	p, err := policy.ParsePorts(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRunMisuse(t *testing.T) {
	tests := []string{
		"--net=10.0.2.0/26",         // no room for the guest
		"--net=10.0.0.0/7",          // too wide
		"--net=10.0.2.1/24",         // an address
		"--net=fd00::/64",           // the other family
		"--net=::ffff:10.0.2.0/120", // neither family
		"--net=127.0.0.0/8",
		"--net=224.0.0.0/24",
		"--net=169.254.1.0/24",
		"--net=0.0.0.0/24",
		"--net=", "--net=on",
		"--net6=10.0.2.0/24",
		"--net6=fd00::/122",
		"--net6=fe80::/64",
		"--net6=ff02::/64",
		"--ipv4=yes",
		"--ipv4=off --ipv6=off",
		"--ipv4=off --net=auto",
		"--ipv6=off --net6=auto",
		"--mtu=575 --ipv6=off", "--mtu=65522", "--mtu=x", "--mtu=-1", "--mtu=1279",
		"--ifname=", "--ifname=0123456789abcdef", "--ifname=a/b", "--ifname=.", "--ifname=lo", "--ifname=ä", "--ifname=a%d",
		"--mac=1", "--mac=01:00:5e:00:00:01", "--mac=00:00:00:00:00:00", "--mac=02:00:00:00:00:00:00:01",
		"--dns=", "--dns=on", "--dns=auto --dns=off", "--dns=off --dns=192.0.2.1", "--dns=0.0.0.0", "--dns=192.0.2.1:0", "--dns=example.org",
		"--host-loopback=", "--host-loopback=0", "--host-loopback=70000", "--host-loopback=9-1", "--host-loopback=all,none",
		"--allow-host=x",
		"-p 80:http", "--publish=", "-p auto,proxy=v1", "--reach=127.0.0.1:80", "--source=mine",
		"--offload=maybe",
		"--keep-id --map-auto",
		"--keep-id=perhaps",
	}
	for _, args := range tests {
		t.Run(args, func(t *testing.T) {
			var c call
			command := slices.Concat([]string{"run"}, strings.Fields(args), []string{"x"})
			if got := c.main(command...); got != statusMisuse || c.started {
				t.Errorf("got status %d, started %v, want %d and not", got, c.started, statusMisuse)
			}
			lines := strings.Split(strings.TrimSuffix(c.stderr.String(), "\n"), "\n")
			if len(lines) != 2 || !strings.HasPrefix(lines[0], "taproot: --") || !strings.HasPrefix(lines[1], "taproot: hint: ") {
				t.Errorf("got %q, want an error and a hint", lines)
			}
		})
	}
}

func TestShell(t *testing.T) {
	var c call
	t.Setenv("SHELL", "/bin/fish")
	c.main("run")
	if got, want := c.guest.Command, []string{"/bin/fish"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPasswdShell(t *testing.T) {
	passwd := "root:x:0:0:root:/root:/bin/bash\nbroken:1001\nuser:x:1001:1001::/home:/bin/zsh\nnone:x:7:7:::\n"
	for uid, want := range map[int]string{0: "/bin/bash", 1001: "/bin/zsh", 7: "", 8: ""} {
		if got := passwdShell([]byte(passwd), uid); got != want {
			t.Errorf("uid %d: got %q, want %q", uid, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"run", "check", "version", "host-loopback", "net", "net6"}
	tests := map[string]string{
		"rnu": "run", "ru": "run", "chekc": "check", "versoin": "version",
		"host-lopback": "host-loopback", "nte": "net", "x": "", "attach": "", "": "",
	}
	for name, want := range tests {
		if got, _ := nearest(name, words); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add("10.0.2.0/24")
	f.Add("[2001:db8::1]:53")
	f.Add("80,90-99")
	f.Add("02:00:00:00:00:01")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseNet4(s); err == nil && !n.Auto && !n.Prefix.Addr().Is4() {
			t.Errorf("parseNet4(%q) = %v", s, n)
		}
		if n, err := parseNet6(s); err == nil && !n.Auto && !n.Prefix.Addr().Is6() {
			t.Errorf("parseNet6(%q) = %v", s, n)
		}
		if d, err := parseDNS([]string{s}); err == nil && len(d.Servers) == 1 && !d.Servers[0].IsValid() {
			t.Errorf("parseDNS(%q) = %v", s, d)
		}
		if m, err := parseMAC(s); err == nil && len(m) != 6 {
			t.Errorf("parseMAC(%q) = %v", s, m)
		}
		_, _ = parseInterface(s)
		_, _ = parseMTU(s)
		_, _ = parsePorts([]string{s})
		_ = passwdShell([]byte(s), 0)
	})
}
