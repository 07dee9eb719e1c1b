package policy

import (
	"net/netip"
	"testing"
)

// mapOf returns a map for ports as ParsePorts reads them.
func mapOf(t testing.TB, guest, host, ports string) Map {
	t.Helper()
	return Map{netip.MustParseAddr(guest), netip.MustParseAddr(host), mustPorts(t, ports)}
}

// TestMapsOfSlirp4netns has the gateway for the host's loopback, and the
// resolver's address for the host's name server.
func TestMapsOfSlirp4netns(t *testing.T) {
	r := rules(t, func(c *Config) {
		c.AllowHost, c.AllowLinkLocal = AllPorts(), true
		c.Maps = []Map{
			mapOf(t, "10.0.2.2", "127.0.0.1", "all"),
			mapOf(t, "fd00::2", "::1", "all"),
			mapOf(t, "10.0.2.3", "192.0.2.53", "1-52,54-65535"),
		}
	})
	for _, proto := range []Proto{TCP, UDP} {
		checkAll(t, r, proto, map[string]string{
			"10.0.2.2:22":            "127.0.0.1:22",
			"[::ffff:10.0.2.2]:22":   "127.0.0.1:22",
			"[fd00::2]:65535":        "[::1]:65535",
			"10.0.2.2:0":             "!host-loopback",
			"10.0.2.3:853":           "192.0.2.53:853",
			"10.0.2.3:53":            "!resolver",
			"[fd00::3]:853":          "!resolver",
			"[64:ff9b::10.0.2.2]:22": "!host-loopback",
			"127.0.0.1:22":           "!loopback",
			"192.0.2.2:22":           "192.0.2.2:22",
			"8.8.8.8:53":             "8.8.8.8:53",
		})
	}
	checkAll(t, r, ICMP, map[string]string{
		"10.0.2.2:0":     "!host-loopback",
		"[fd00::2]:0":    "!host-loopback",
		"10.0.2.3:0":     "!resolver",
		"10.0.2.3:853":   "!resolver",
		"192.0.2.2:0":    "192.0.2.2:0",
		"10.0.2.100:0":   "!guest",
		"198.51.100.7:0": "198.51.100.7:0",
	})
}

// TestMapsOfPasta has a guest with the host's own address and the host's own
// router, which is one of the addresses that it may talk to.
func TestMapsOfPasta(t *testing.T) {
	r := rules(t, func(c *Config) {
		c.Gateway4, c.Gateway6, c.Resolver4, c.Resolver6 = netip.Addr{}, netip.Addr{}, netip.Addr{}, netip.Addr{}
		c.Guests = []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}
		c.AllowHost, c.AllowLinkLocal = AllPorts(), true
		c.Maps = []Map{
			mapOf(t, "169.254.1.2", "192.0.2.2", "all"),
			mapOf(t, "169.254.1.3", "127.0.0.1", "all"),
			mapOf(t, "169.254.1.1", "127.0.0.53", "853"),
		}
	})
	checkAll(t, r, TCP, map[string]string{
		"169.254.1.2:80":     "192.0.2.2:80",
		"169.254.1.3:80":     "127.0.0.1:80",
		"169.254.1.1:853":    "127.0.0.53:853",
		"169.254.1.1:854":    "169.254.1.1:854",
		"192.0.2.2:80":       "!guest",
		"192.0.2.1:80":       "192.0.2.1:80", // the router
		"198.51.100.7:80":    "198.51.100.7:80",
		"[2001:db8::2]:80":   "!guest",
		"[fe80::1]:80":       "[fe80::1]:80",
		"192.0.2.255:80":     "!broadcast",
		"127.0.0.1:80":       "!loopback",
		"[::127.0.0.1]:80":   "!ipv4-compatible",
		"[fd00:ec2::254]:80": "[fd00:ec2::254]:80",
	})
	checkAll(t, r, ICMP, map[string]string{
		"169.254.1.2:0": "192.0.2.2:0",
		"169.254.1.3:0": "!host-loopback", // although all is open, it is taken
		"192.0.2.1:0":   "192.0.2.1:0",
	})
	if !r.Source(netip.MustParseAddr("192.0.2.2")) || r.Source(netip.MustParseAddr("192.0.2.1")) {
		t.Error("Source: want the guest's address only")
	}
}

func TestSetMaps(t *testing.T) {
	r := rules(t, nil)
	maps := []Map{mapOf(t, "::ffff:10.0.2.3", "192.0.2.53", "853"), mapOf(t, "10.0.2.3", "192.0.2.54", "all")}
	if err := r.SetMaps(maps); err != nil {
		t.Fatal(err)
	}
	clear(maps) // it is a copy that counts
	want := map[string]string{"10.0.2.3:853": "192.0.2.53:853", "10.0.2.3:80": "192.0.2.54:80"}
	checkAll(t, r, TCP, want)
	if err := r.SetMaps([]Map{mapOf(t, "10.0.2.3", "::1", "all")}); err == nil {
		t.Error("map between families: got no error")
	}
	checkAll(t, r, TCP, want)
	if err := r.SetMaps(nil); err != nil {
		t.Fatal(err)
	}
	checkAll(t, r, TCP, map[string]string{"10.0.2.3:853": "!resolver"})
}

func TestSources(t *testing.T) {
	r := rules(t, func(c *Config) {
		c.Guests = nil
		c.Sources = []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd00::/64")}
	})
	for src, want := range map[string]bool{
		"10.0.2.15":        true,
		"10.0.2.100":       true,
		"fd00::5894:1":     true,
		"fe80::1":          true,
		"10.0.2.2":         false,
		"10.0.2.3":         false,
		"10.0.2.255":       false,
		"10.0.3.15":        true, // of a network behind the guest
		"fd00::2":          false,
		"fd00:0:0:1::1":    true,
		"::ffff:10.0.2.15": false,
		"0.0.0.0":          false,
		"::":               false,
	} {
		if got := r.Source(netip.MustParseAddr(src)); got != want {
			t.Errorf("Source(%v): got %v, want %v", src, got, want)
		}
	}
	checkAll(t, r, UDP, map[string]string{"10.0.2.255:1": "!broadcast", "10.0.2.15:1": "10.0.2.15:1"})
}

func TestSetGuests(t *testing.T) {
	r := rules(t, nil)
	before, after := netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("192.0.2.2")
	if err := r.SetGuests([]netip.Prefix{{}}, nil); err == nil || !r.Source(before) {
		t.Errorf("no address: got error %v, Source %v, want an error and true", err, r.Source(before))
	}
	if err := r.SetGuests([]netip.Prefix{netip.PrefixFrom(after, 24)}, nil); err != nil {
		t.Fatal(err)
	}
	if r.Own(before) || !r.Own(after) || r.Own(netip.Addr{}) {
		t.Error("Own: want the new address only")
	}
	if !r.Source(after) || r.Source(netip.MustParseAddr("192.0.2.3")) || r.Source(netip.MustParseAddr("fe80::1")) {
		t.Error("Source: want the new address only")
	}
	checkAll(t, r, TCP, map[string]string{"192.0.2.2:1": "!guest", "192.0.2.255:1": "!broadcast", "10.0.2.255:1": "10.0.2.255:1"})
}
