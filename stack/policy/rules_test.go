package policy

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
)

// config is that of a default guest on a host with addresses of both families.
func config() Config {
	return Config{
		Gateway4:  netip.MustParseAddr("10.0.2.2"),
		Gateway6:  netip.MustParseAddr("fd00::2"),
		Resolver4: netip.MustParseAddr("10.0.2.3"),
		Resolver6: netip.MustParseAddr("fd00::3"),
		Guests:    []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("fd00::64/64")},
		HostAddrs: []netip.Addr{
			netip.MustParseAddr("192.0.2.2"),
			netip.MustParseAddr("2001:db8::2"),
			netip.MustParseAddr("fe80::1%eth0"),
			netip.MustParseAddr("169.254.7.7"),
			netip.MustParseAddr("::ffff:198.51.100.7"),
		},
	}
}

func rules(t testing.TB, change func(*Config)) *Rules {
	t.Helper()
	c := config()
	if change != nil {
		change(&c)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustPorts(t testing.TB, s string) Ports {
	t.Helper()
	p, err := ParsePorts(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// checkAll checks destinations against what is wanted: an address to dial, or
// "!" and the name of the rule that denies.
func checkAll(t *testing.T, r *Rules, proto Proto, want map[string]string) {
	t.Helper()
	for dst, want := range want {
		got := verdict(r, proto, netip.MustParseAddrPort(dst))
		if got != want {
			t.Errorf("%v %v: got %v, want %v", proto, dst, got, want)
		}
	}
}

func verdict(r *Rules, proto Proto, dst netip.AddrPort) string {
	target, err := r.Check(proto, dst)
	if denied, ok := errors.AsType[*Denied](err); ok {
		return "!" + denied.Rule
	}
	if err != nil {
		return err.Error()
	}
	return target.String()
}

// TestCheckDefault checks what is not in the table of policytest: what depends on
// ports, zones, and how the host's addresses were told.
func TestCheckDefault(t *testing.T) {
	r := rules(t, nil)
	want := map[string]string{
		"8.8.8.8:53":              "8.8.8.8:53",
		"10.0.2.3:853":            "!resolver",
		"[::ffff:8.8.8.8]:53":     "8.8.8.8:53",
		"[64:ff9b:1::1.2.3.4]:53": "[64:ff9b:1::102:304]:53",

		"198.51.100.7:22":  "!host", // told as IPv4-mapped
		"[2001:db8::2]:22": "!host",
		"169.254.7.7:22":   "!host", // and link-local
		"[fe80::1]:22":     "!host", // told with a zone
		"[fe80::1%3]:22":   "!host",
		"192.0.2.3:22":     "192.0.2.3:22",
	}
	for _, proto := range []Proto{TCP, UDP} {
		checkAll(t, r, proto, want)
	}
}

func TestCheckHostLoopback(t *testing.T) {
	r := rules(t, func(c *Config) { c.HostLoopback = mustPorts(t, "80,8000-8010") })
	want := map[string]string{
		"10.0.2.2:80":            "127.0.0.1:80",
		"10.0.2.2:8005":          "127.0.0.1:8005",
		"[fd00::2]:80":           "[::1]:80",
		"[::ffff:10.0.2.2]:80":   "127.0.0.1:80",
		"10.0.2.2:81":            "!host-loopback",
		"10.0.2.2:0":             "!host-loopback",
		"127.0.0.1:80":           "!loopback",
		"[::1]:80":               "!loopback",
		"192.0.2.2:80":           "!host",
		"10.0.2.3:80":            "!resolver",
		"[64:ff9b::10.0.2.2]:80": "!host-loopback",
	}
	for _, proto := range []Proto{TCP, UDP} {
		checkAll(t, r, proto, want)
	}
	checkAll(t, r, ICMP, map[string]string{"10.0.2.2:0": "!host-loopback", "10.0.2.2:80": "!host-loopback"})
}

func TestCheckAllowHost(t *testing.T) {
	some := rules(t, func(c *Config) { c.AllowHost = mustPorts(t, "22") })
	checkAll(t, some, TCP, map[string]string{
		"192.0.2.2:22":     "192.0.2.2:22",
		"[2001:db8::2]:22": "[2001:db8::2]:22",
		"192.0.2.2:23":     "!host",
		"169.254.7.7:22":   "!link-local",
		"127.0.0.1:22":     "!loopback",
		"10.0.2.2:22":      "!host-loopback",
	})
	checkAll(t, some, ICMP, map[string]string{"192.0.2.2:0": "!host", "192.0.2.3:0": "192.0.2.3:0"})
	all := rules(t, func(c *Config) { c.AllowHost = mustPorts(t, "all"); c.AllowLinkLocal = true })
	checkAll(t, all, ICMP, map[string]string{"192.0.2.2:0": "192.0.2.2:0", "169.254.7.7:0": "169.254.7.7:0"})
}

func TestCheckAllowLinkLocal(t *testing.T) {
	r := rules(t, func(c *Config) { c.AllowLinkLocal = true })
	checkAll(t, r, TCP, map[string]string{
		"169.254.169.254:80":  "169.254.169.254:80",
		"[fd00:ec2::254]:80":  "[fd00:ec2::254]:80",
		"[fe80::2]:80":        "[fe80::2]:80",
		"169.254.7.7:80":      "!host",
		"[2002:7f00:1::1]:80": "!loopback",
		"[2002:a9fe:1::]:80":  "[2002:a9fe:1::]:80",
	})
}

func TestCheckWithoutFamilies(t *testing.T) {
	r := rules(t, func(c *Config) { *c = Config{} })
	checkAll(t, r, TCP, map[string]string{"8.8.8.8:1": "8.8.8.8:1", "127.0.0.1:1": "!loopback"})
	if got, want := verdict(r, TCP, netip.AddrPort{}), "!invalid"; got != want {
		t.Errorf("zero address: got %v, want %v", got, want)
	}
	for _, src := range []string{"10.0.2.100", "fd00::64", "fe80::1", "0.0.0.0"} {
		if r.Source(netip.MustParseAddr(src)) {
			t.Errorf("Source(%v): got true, want false", src)
		}
	}
}

func TestGatewayMayBeLinkLocal(t *testing.T) {
	r := rules(t, func(c *Config) {
		c.Gateway6 = netip.MustParseAddr("fe80::1")
		c.HostLoopback = mustPorts(t, "80")
	})
	checkAll(t, r, TCP, map[string]string{"[fe80::1]:80": "[::1]:80", "[fe80::1]:81": "!host-loopback"})
}

func TestSetHostAddrs(t *testing.T) {
	r := rules(t, nil)
	checkAll(t, r, TCP, map[string]string{"192.0.2.2:22": "!host"})
	r.SetHostAddrs([]netip.Addr{netip.MustParseAddr("203.0.113.9")})
	checkAll(t, r, TCP, map[string]string{"192.0.2.2:22": "192.0.2.2:22", "203.0.113.9:22": "!host"})
}

func TestSetHostAddrsConcurrent(t *testing.T) {
	r := rules(t, nil)
	addrs := []netip.Addr{netip.MustParseAddr("203.0.113.9")}
	var both sync.WaitGroup
	both.Go(func() {
		for range 1000 {
			r.SetHostAddrs(addrs)
		}
	})
	both.Go(func() {
		for range 1000 {
			verdict(r, TCP, netip.AddrPortFrom(addrs[0], 1))
		}
	})
	both.Wait()
}

func TestNewRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"family of gateway": {func(c *Config) { c.Gateway4 = c.Gateway6 }, "policy Gateway4 fd00::2: wrong address family"},
		"no guest":          {func(c *Config) { c.Guests = append(c.Guests, netip.Prefix{}) }, "policy guest invalid Prefix: not an address with a length"},
		"mapped guest": {
			func(c *Config) { c.Guests[0] = netip.MustParsePrefix("::ffff:10.0.2.100/120") },
			"policy guest ::ffff:10.0.2.100/120: an IPv4 address in IPv6 form",
		},
		"no source": {
			func(c *Config) { c.Sources = []netip.Prefix{{}} },
			"policy source invalid Prefix: not an address with a length",
		},
		"map between families": {
			func(c *Config) { c.Maps = []Map{{Guest: c.Gateway4, Host: netip.IPv6Loopback(), Ports: AllPorts()}} },
			"policy map 10.0.2.2 to ::1: not two addresses of one family",
		},
		"map of nothing": {
			func(c *Config) { c.Maps = []Map{{}} },
			"policy map invalid IP to invalid IP: not two addresses of one family",
		},
		"mapped resolver": {
			func(c *Config) { c.Resolver6 = netip.MustParseAddr("::ffff:1.2.3.4") },
			"policy Resolver6 ::ffff:1.2.3.4: wrong address family",
		},
		"network for guest": {
			func(c *Config) { c.Guests[0] = netip.MustParsePrefix("10.0.2.0/24") },
			"policy guest 10.0.2.0/24: a network, not an address in it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := config()
			tt.change(&c)
			if _, err := New(c); err == nil || err.Error() != tt.want {
				t.Errorf("New: got %v, want %v", err, tt.want)
			}
		})
	}
	c := config()
	c.Guests[0] = netip.MustParsePrefix("10.0.2.100/32")
	if _, err := New(c); err != nil {
		t.Errorf("New with a /32: got %v, want no error", err)
	}
}

func TestDenied(t *testing.T) {
	_, err := rules(t, nil).Check(UDP, netip.MustParseAddrPort("127.0.0.1:53"))
	if got, want := err.Error(), "udp 127.0.0.1:53: denied by rule loopback"; got != want {
		t.Errorf("Error: got %v, want %v", got, want)
	}
	for proto, want := range map[Proto]string{TCP: "tcp", UDP: "udp", ICMP: "icmp", 9: "proto(9)"} {
		if got := proto.String(); got != want {
			t.Errorf("String: got %v, want %v", got, want)
		}
	}
}

// TestPublished opens exactly what leads back to the guest.
func TestPublished(t *testing.T) {
	var asked []string
	r := rules(t, func(c *Config) {
		c.Published = func(p Proto, dst netip.AddrPort) bool {
			asked = append(asked, p.String()+" "+dst.String())
			return p == TCP && dst.Port() == 8080
		}
	})
	checkAll(t, r, TCP, map[string]string{
		"192.0.2.2:8080":           "192.0.2.2:8080",
		"[::ffff:192.0.2.2]:8080":  "192.0.2.2:8080",
		"[2001:db8::2]:8080":       "[2001:db8::2]:8080",
		"192.0.2.2:8081":           "!host",
		"127.0.0.1:8080":           "!loopback",
		"10.0.2.2:8080":            "!host-loopback",
		"169.254.7.7:8080":         "!host",
		"[64:ff9b::c000:202]:8080": "!host", // 192.0.2.2 behind a translator is another way
		"[fe80::1]:8080":           "!host",
		"10.0.2.100:8080":          "!guest",
	})
	checkAll(t, r, UDP, map[string]string{"192.0.2.2:8080": "!host"})
	checkAll(t, r, ICMP, map[string]string{"192.0.2.2:0": "!host"})
	asked = nil
	checkAll(t, r, TCP, map[string]string{"8.8.8.8:8080": "8.8.8.8:8080"})
	if asked != nil {
		t.Errorf("asked for %v, want only what is the host's", asked)
	}
}
