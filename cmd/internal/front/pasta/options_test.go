package pasta

import (
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack/flow"
	"taproot/stack/policy"
)

// ephemeral are the ports for clients in tests.
var ephemeral = portRange{32768, 60999}

// defaults returns what a command line without options means.
func defaults(t *testing.T) (engine.Config, planner) {
	t.Helper()
	cfg := engine.Config{
		Down: true, KeepFiles: true,
		DNS:            engine.DNS{Off: true, Ports: set(t, "853")},
		HostLoopback:   policy.AllPorts(),
		AllowHost:      policy.AllPorts(),
		AllowLinkLocal: true,
	}
	for _, d := range []portfwd.Direction{portfwd.Inbound, portfwd.Outbound} {
		cfg.Auto = append(cfg.Auto,
			portfwd.AutoConfig{Direction: d, Proto: flow.TCP, Period: automaticPeriod, Allow: policy.AllPorts()},
			portfwd.AutoConfig{Direction: d, Proto: flow.UDP, Period: automaticPeriod, Allow: set(t, "1-32767,61000-65535")})
	}
	return cfg, planner{Copy: plan.Copy{MTU: 65520, MapGateway: true}}
}

func set(t *testing.T, s string) policy.Ports {
	t.Helper()
	p, err := policy.ParsePorts(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// parsed parses a command line without quotes.
func parsed(t *testing.T, line string) *options {
	t.Helper()
	o, err := parse(strings.Fields(line))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return o
}

func TestConfig(t *testing.T) {
	addr := netip.MustParseAddr
	addrs := func(list ...string) (a []netip.Addr) {
		for _, s := range list {
			a = append(a, addr(s))
		}
		return a
	}
	for line, want := range map[string]func(*engine.Config, *planner){
		"":                      func(*engine.Config, *planner) {},
		"-e --chroot-fallback":  func(*engine.Config, *planner) {},
		"--no-splice":           func(*engine.Config, *planner) {},
		"--config-net":          func(c *engine.Config, _ *planner) { c.Down = false },
		"-m 1500":               func(_ *engine.Config, p *planner) { p.MTU = 1500 },
		"-m1500":                func(_ *engine.Config, p *planner) { p.MTU = 1500 },
		"--mtu=0":               func(_ *engine.Config, p *planner) { p.MTU = 0 },
		"--mtu=65535":           func(_ *engine.Config, p *planner) { p.MTU = 65521 },
		"--mtu=1000":            func(_ *engine.Config, p *planner) { p.MTU, p.V6.Off = 1000, true },
		"-a 10.0.2.100":         func(_ *engine.Config, p *planner) { p.V4.Addresses = addrs("10.0.2.100") },
		"-a 10.0.2.100/24":      func(_ *engine.Config, p *planner) { p.V4.Addresses, p.V4.Bits = addrs("10.0.2.100"), 24 },
		"-a fd00::5/56":         func(_ *engine.Config, p *planner) { p.V6.Addresses, p.V6.Bits = addrs("fd00::5"), 56 },
		"-n 24":                 func(_ *engine.Config, p *planner) { p.V4.Bits = 24 },
		"-n 255.255.240.0":      func(_ *engine.Config, p *planner) { p.V4.Bits = 20 },
		"-g 10.0.2.2":           func(_ *engine.Config, p *planner) { p.V4.Gateway = addr("10.0.2.2") },
		"-g fe80::1":            func(_ *engine.Config, p *planner) { p.V6.Gateway = addr("fe80::1") },
		"-M 02:00:00:00:00:07":  func(_ *engine.Config, p *planner) { p.GatewayMAC = net.HardwareAddr{2, 0, 0, 0, 0, 7} },
		"-i eth1 -I tap0":       func(_ *engine.Config, p *planner) { p.Template, p.Interface = "eth1", "tap0" },
		"-4":                    func(_ *engine.Config, p *planner) { p.V6.Off = true },
		"-6":                    func(_ *engine.Config, p *planner) { p.V4.Off = true },
		"-o 192.0.2.1 -o ::1":   func(c *engine.Config, _ *planner) { c.Bind.Addr4, c.Bind.Addr6 = addr("192.0.2.1"), addr("::1") },
		"--outbound-if4 eth1":   func(c *engine.Config, _ *planner) { c.Bind.Device4 = "eth1" },
		"--outbound-if6 eth1":   func(c *engine.Config, _ *planner) { c.Bind.Device6 = "eth1" },
		"--no-copy-routes":      func(_ *engine.Config, p *planner) { p.V4.NoRoutes, p.V6.NoRoutes = true, true },
		"--no-copy-addrs":       func(_ *engine.Config, p *planner) { p.V4.NoAddresses, p.V6.NoAddresses = true, true },
		"--no-map-gw":           func(_ *engine.Config, p *planner) { p.foreign = [2]bool{true, true} },
		"--no-tcp":              func(c *engine.Config, _ *planner) { c.Without.TCP = true },
		"--no-udp":              func(c *engine.Config, _ *planner) { c.Without.UDP = true },
		"--no-icmp":             func(c *engine.Config, _ *planner) { c.Without.ICMP, c.Without.RA = true, true },
		"--no-dhcp --no-dhcpv6": func(c *engine.Config, _ *planner) { c.Without.DHCP, c.Without.DHCPv6 = true, true },
		"--no-ra":               func(c *engine.Config, _ *planner) { c.Without.RA = true },
		"--no-ndp":              func(c *engine.Config, _ *planner) { c.Without.RA = true },
		"--no-follow":           func(c *engine.Config, _ *planner) { c.NoFollow = true },
		"-D 192.0.2.53":         func(c *engine.Config, _ *planner) { c.Announce.Resolvers = addrs("192.0.2.53") },
		"-D none --dhcp-dns":    func(*engine.Config, *planner) {},
		"--dhcp-dns":            func(c *engine.Config, _ *planner) { c.Announce.DNS = true },
		"-S example.org":        func(c *engine.Config, _ *planner) { c.Announce.Domains = []string{"example.org"} },
		"--dhcp-search":         func(c *engine.Config, _ *planner) { c.Announce.Search = true },
		"--dhcp-search -S none": func(*engine.Config, *planner) {},
		"--dhcp-search --no-dhcp-search --dhcp-dns --no-dhcp-dns": func(*engine.Config, *planner) {},
		"--hostname box --fqdn box.example.org": func(c *engine.Config, _ *planner) {
			c.Announce.Hostname, c.Announce.FQDN = "box", "box.example.org"
		},
		"--dns-forward 169.254.1.1": func(c *engine.Config, p *planner) {
			c.DNS.Off, p.V4.Resolver = false, addr("169.254.1.1")
		},
		"--dns-forward fd00::53 --dns-host 127.0.0.53": func(c *engine.Config, p *planner) {
			c.DNS.Off, p.V6.Resolver = false, addr("fd00::53")
			c.DNS.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53")}
		},
		"--map-host-loopback 169.254.1.3": func(c *engine.Config, p *planner) {
			c.Maps = []policy.Map{{Guest: addr("169.254.1.3"), Host: addr("127.0.0.1"), Ports: policy.AllPorts()}}
			p.foreign[ipv4] = true
		},
		"--map-host-loopback none":               func(_ *engine.Config, p *planner) { p.foreign = [2]bool{true, true} },
		"--map-guest-addr 169.254.1.2":           func(c *engine.Config, _ *planner) { c.HostAt = addrs("169.254.1.2") },
		"--map-guest-addr none":                  func(*engine.Config, *planner) {},
		"-t none":                                func(c *engine.Config, _ *planner) { c.Auto = c.Auto[1:] },
		"-t 80 -u 53 -T 5432 -U none":            func(c *engine.Config, _ *planner) { c.Auto = nil },
		"-t none -u none -T none -U none -tnone": func(c *engine.Config, _ *planner) { c.Auto = nil },
		"-t auto,~22 -u none -T none -U none": func(c *engine.Config, _ *planner) {
			c.Auto = c.Auto[:1]
			c.Auto[0].Allow = set(t, "1-21,23-65535")
		},
		"-t %eth0/8000-8010,auto -u none -T none -U none": func(c *engine.Config, _ *planner) {
			c.Auto = c.Auto[:1]
			c.Auto[0].Allow, c.Auto[0].Device = set(t, "8000-8010"), "eth0"
		},
		"-t none -u ::1/51820,auto -T none -U none": func(c *engine.Config, _ *planner) {
			c.Auto = c.Auto[1:2]
			c.Auto[0].Allow, c.Auto[0].Listen = set(t, "51820"), addr("::1")
		},
		"-t auto -t 8080:80 -u none -T none -U none": func(c *engine.Config, _ *planner) {
			c.Auto = c.Auto[:1]
			c.Auto[0].Allow = set(t, "1-8079,8081-65535")
		},
		"--host-lo-to-ns-lo": func(c *engine.Config, _ *planner) {
			c.Auto[0].Loopback, c.Auto[1].Loopback = true, true
		},
	} {
		cfg, network := defaults(t)
		want(&cfg, &network)
		cfg.Plan = network
		if got := parsed(t, line).config(ephemeral); !reflect.DeepEqual(got, cfg) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", line, got, cfg)
		}
	}
}

// TestSpliceOnly wants nothing but ports from loopback to loopback.
func TestSpliceOnly(t *testing.T) {
	o := parsed(t, "--splice-only -t 8080:80 -T 3128 -u none -U none")
	if cfg := o.config(ephemeral); cfg.Plan != nil || cfg.Auto != nil {
		t.Errorf("got plan %v, automatic ports %v, want none", cfg.Plan, cfg.Auto)
	}
	for _, p := range o.publications(ephemeral) {
		for _, r := range p.rules {
			if r.Direction == portfwd.Inbound && (!r.Loopback || !r.Local) {
				t.Errorf("got %v, want it from loopback to loopback", r)
			}
		}
	}
}

// TestCallers parses the command lines of programs that exec pasta, as they
// write them.
func TestCallers(t *testing.T) {
	const netns = "/run/user/1000/netns/netns-7b2ea6a5"
	for line, want := range map[string]struct {
		netns, userns, pid string
		background, quiet  bool
	}{
		"--config-net -t 8080-8080:80-80 -u 10.0.0.1/53-53:53-53 --dns-forward 169.254.1.1 -T none -U none --no-map-gw --quiet --netns " + netns +
			" --map-guest-addr 169.254.1.2": {netns: netns, background: true, quiet: true},
		"--config-net -4 -t auto --dns-forward 169.254.1.1 -u none -T none -U none -d --netns " + netns + " --map-guest-addr 169.254.1.2": {netns: netns, background: true},
		"--config-net --pid /tmp/rootless-netns-conn.pid --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet --netns " + netns +
			" --map-guest-addr 169.254.1.2": {netns: netns, background: true, quiet: true},
		"--config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet --netns /proc/77/ns/net --map-guest-addr 169.254.1.2": {
			netns: "/proc/77/ns/net", background: true, quiet: true},
		"--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only " +
			"--tcp-ports=auto --udp-ports=auto --host-lo-to-ns-lo 4711": {pid: "4711", background: true},
		"--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 " +
			"--tcp-ports=none --udp-ports=none --userns=/proc/77/ns/user --netns=" + netns: {netns: netns, userns: "/proc/77/ns/user", background: true},
		"-q -f --splice-only -T 3128 -- cmd -t x": {quiet: true},
		"-f --netns box": {netns: "box"},
		"1 2":            {},
	} {
		o := parsed(t, line)
		if o.netns != want.netns || o.userns != want.userns || o.background() != want.background || o.quiet != want.quiet {
			t.Errorf("%s: got netns %q, userns %q, background %v, quiet %v, want %+v", line, o.netns, o.userns, o.background(), o.quiet, want)
		}
		if got := strings.Join(o.operands, " "); (o.mode() == modeProcess) != (want.pid != "") || want.pid != "" && got != want.pid {
			t.Errorf("%s: got mode %v and operands %s, want PID %q", line, o.mode(), got, want.pid)
		}
	}
}

func TestMisuse(t *testing.T) {
	for line, want := range map[string]string{
		"--xyz":                     "unrecognized option '--xyz'",
		"--map-guest-addrs x":       "unrecognized option '--map-guest-addrs'",
		"-Z":                        "invalid option -- 'Z'",
		"--mtu":                     "option '--mtu' requires an argument",
		"-t":                        "option requires an argument -- 't'",
		"--quiet=1":                 "option '--quiet' doesn't allow an argument",
		"--xyz --version":           "unrecognized option '--xyz'",
		"-s /x":                     "invalid option -- 's'",
		"--socket /x":               "unrecognized option '--socket'",
		"--vhost-user":              "unrecognized option '--vhost-user'",
		"--print-capabilities":      "unrecognized option '--print-capabilities'",
		"--repair-path x":           "unrecognized option '--repair-path'",
		"--migrate-exit":            "unrecognized option '--migrate-exit'",
		"-1":                        "invalid option -- '1'",
		"--one-off":                 "unrecognized option '--one-off'",
		"-m 65536":                  "Invalid MTU: 65536",
		"-m x":                      "Invalid MTU: x",
		"-m 67":                     "Invalid MTU: 67",
		"-6 -m 1279":                "Invalid MTU: 1279",
		"-a 127.0.0.1":              "Invalid address: 127.0.0.1",
		"-a 10.0.2.100/0":           "Invalid address: 10.0.2.100/0",
		"-a 10.0.2.100/33":          "Invalid address: 10.0.2.100/33",
		"-a 10.0.2.1 -a 10.0.2.2":   "Invalid address: 10.0.2.2",
		"-n 33":                     "Invalid netmask: 33",
		"-n 0.0.0.0":                "Invalid netmask: 0.0.0.0",
		"-n 255.0.255.0":            "Invalid netmask: 255.0.255.0",
		"-n 24 -a 10.0.2.1/24":      "Both --netmask and --address with a prefix length given",
		"-g x":                      "Invalid gateway address: x",
		"-g 0.0.0.0":                "Invalid gateway address: 0.0.0.0",
		"-M x":                      "Invalid MAC address: x",
		"-M 01:00:00:00:00:00":      "Invalid MAC address: 01:00:00:00:00:00",
		"--ns-mac-addr 0:0:0:0:0:0": "Invalid MAC address: 0:0:0:0:0:0",
		"-I 0123456789abcdef":       "Invalid interface name: 0123456789abcdef",
		"-i a/b":                    "Invalid interface name: a/b",
		"-o x":                      "Invalid outbound address: x",
		"-4 -6":                     "Options ipv4-only and ipv6-only are mutually exclusive",
		"-4 -a fd00::5":             "fd00::5 and --ipv4-only exclude each other",
		"-D x":                      "Invalid DNS address: x",
		"-D none -D 192.0.2.53":     "Invalid DNS address: 192.0.2.53",
		"-D 192.0.2.53 -D none":     "Invalid DNS address: none",
		"-S a..b":                   "Invalid DNS search domain: a..b",
		"-S a -S none":              "Invalid DNS search list: none",
		"--dns-forward x":           "Invalid DNS forwarding address: x",
		"--dns-forward 1.1.1.1 --dns-forward 1.1.1.2": "Invalid DNS forwarding address: 1.1.1.2",
		"--dns-host x":               "Invalid host nameserver: x",
		"-H -x":                      "Invalid host name: -x",
		"--fqdn a_b.":                "Invalid host name: a_b.",
		"--map-host-loopback x":      "Invalid address for the host's loopback: x",
		"--map-guest-addr 127.0.0.1": "Invalid address for the host: 127.0.0.1",
		"--log-size 5":               "Invalid --log-size: 5",
		"--runas no-such-user":       "Invalid --runas option: no-such-user",
		"--runas 0:-1":               "Invalid --runas option: 0:-1",
		"--stats 0":                  "Invalid --stats: 0",
		"--stats x":                  "Invalid --stats: x",
		"--stats 1 7":                "--stats needs --foreground",
		"-F 3":                       "-F is not supported",
		"-q --trace":                 "Either --debug or --quiet",
		"--netns x y":                "Both --netns and PID or command given",
		"--netns x 1":                "Both --netns and PID or command given",
		"--netns ..":                 "Invalid name of a network namespace: ..",
		"1 --netns-only":             "", // behind the operand: a command
		"--netns-only --userns x 1":  "Both --userns and --netns-only given",
		"--netns-only true":          "--userns and --netns-only need a PID or --netns",
		"--userns x":                 "--userns and --netns-only need a PID or --netns",
		"0":                          "Invalid PID: 0",
		"99999999999":                "Invalid PID: 99999999999",
		"-t x":                       "Invalid port specifier x",
		"-t none -t 80":              "'-t 80' conflicts with previous options",
		"-t 80 -t none":              "'-t none' conflicts with previous options",
		"-u 5-6 -u auto -u none":     "'-u none' conflicts with previous options",
		"-T 127.0.0.1/80":            "Invalid port specifier 127.0.0.1/80",
		"-U %eth0/80":                "Invalid port specifier %eth0/80",
		"-T 80:192.0.2.1":            "Invalid port specifier 80:192.0.2.1",
		"-T all:192.0.2.1":           "Invalid port specifier all:192.0.2.1",
		"--splice-only --no-splice":  "--splice-only and --no-splice exclude each other",
	} {
		_, err := parse(strings.Fields(line))
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
}

// TestProbe asks for options as rootlesskit does: what is known, also without
// support, is right before --version.
func TestProbe(t *testing.T) {
	for line, want := range map[string]error{
		"--host-lo-to-ns-lo --version": errVersion,
		"-c /x -F 7 --version":         errVersion,
		"--version --xyz":              errVersion,
		"--help -t x":                  errHelp,
		"-h":                           errHelp,
	} {
		if _, err := parse(strings.Fields(line)); err != want {
			t.Errorf("%s: got %v, want %v", line, err, want)
		}
	}
}

func TestParseIdentity(t *testing.T) {
	files := func(path string) string {
		if path == "/etc/group" {
			return "staff:x:50:\n"
		}
		return "root:x:0:0::/:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n"
	}
	for text, want := range map[string]identity{
		"5": {5, 5}, "5:6": {5, 6}, "nobody": {65534, 65533}, "nobody:7": {65534, 7}, "5:staff": {5, 50},
	} {
		if got, err := parseIdentity(text, files); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "5:", "5:x", ":5", "-1", "5:6:7", "4294967296"} {
		if got, err := parseIdentity(text, files); err == nil {
			t.Errorf("%s: got %v, want an error", text, got)
		}
	}
}

// TestHelp wants each option in the help and in the man page, and none that
// does not exist.
func TestHelp(t *testing.T) {
	names := (&options{}).set().Names()
	for line := range strings.SplitSeq(Help, "\n") {
		if len(line) > 80 {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
	var found []string
	for _, m := range regexp.MustCompile(`(?m)^  (?:-\w, |    )--([a-z0-9-]+)`).FindAllStringSubmatch(Help, -1) {
		found = append(found, m[1])
	}
	compareNames(t, "help", found, names)
	found = nil
	for _, m := range regexp.MustCompile(`(?m)^\.It Fl (?:\w , Fl )?-([a-z0-9-]+)`).FindAllStringSubmatch(readText("../../../../docs/man/taproot-pasta.1"), -1) {
		found = append(found, m[1])
	}
	compareNames(t, "man page", found, names)
}

func compareNames(t *testing.T, where string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("%s: --%s is missing", where, name)
		}
	}
	for i, name := range got {
		if !slices.Contains(want, name) || i > 0 && got[i-1] == name {
			t.Errorf("%s: --%s is no option, or there twice", where, name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--config-net -t 80-80:80-80 --netns /run/x --map-guest-addr 169.254.1.2")
	f.Add("-a 10.0.2.1/24 -n 24 -m 1500 -S a.b 4711")
	f.Fuzz(func(t *testing.T, line string) {
		if o, err := parse(strings.Split(line, " ")); err == nil {
			_ = o.config(ephemeral)
			_ = o.publications(ephemeral)
			_, _ = o.attachment()
		}
	})
}
