package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func testPlan(t *testing.T, cfg Config) plan {
	t.Helper()
	p, err := newPlan(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGuestResolvConf(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    Config
		search []string
		want   string
	}{
		{"both", Config{}, nil, "nameserver 10.0.2.3\nnameserver fd00::3\n"},
		{"IPv4", Config{Net6: Network{Off: true}}, nil, "nameserver 10.0.2.3\n"},
		{"IPv6, search", Config{Net4: Network{Off: true}}, []string{"example.test", "test"}, "nameserver fd00::3\nsearch example.test test\n"},
	} {
		if got := string(guestResolvConf(testPlan(t, tt.cfg), hostState{Search: tt.search})); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestGuestHosts(t *testing.T) {
	got := string(guestHosts(testPlan(t, Config{})))
	if want := "\n10.0.2.2 host.taproot.internal\nfd00::2 host.taproot.internal\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q at the end", got, want)
	}
	if host, err := os.ReadFile(hostsPath); err == nil && !strings.HasPrefix(got, string(host)) {
		t.Errorf("got %q, want the host's own first", got)
	}
	got = string(guestHosts(testPlan(t, Config{Net6: Network{Off: true}})))
	if strings.Contains(got, "fd00::2 ") || !strings.Contains(got, "\n10.0.2.2 host.taproot.internal\n") {
		t.Errorf("IPv4 only: got %q", got)
	}
}

func TestSymlinkChain(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(path("run/stub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"absolute": path("run/file"),
		"relative": "run/link",
		"run/link": "../run/stub/file",
		"broken":   "nowhere/file",
		"loop":     "pool",
		"pool":     "loop",
	} {
		if err := os.Symlink(to, path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"file":     {"file"},
		"missing":  {"missing"},
		"absolute": {"absolute", "run/file"},
		"relative": {"relative", "run/link", "run/stub/file"},
		"broken":   {"broken", "nowhere/file"},
	} {
		for i := range want {
			want[i] = path(want[i])
		}
		if got := symlinkChain(path(name)); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if got := symlinkChain(path("loop")); len(got) != 41 {
		t.Errorf("loop: got %d links, want it given up after 40", len(got)-1)
	}
}

// TestHostState wants what the kernel says of this machine to be usable: the
// loopback's addresses at the least.
func TestHostState(t *testing.T) {
	addresses, err := hostAddresses()
	if err != nil {
		t.Fatal(err)
	}
	if len(addresses) > 0 && !slices.ContainsFunc(addresses, netip.Addr.IsLoopback) {
		t.Errorf("addresses: got %v, want a loopback among them", addresses)
	}
	list, err := hostRoutes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.prefix.Bits() == 0 || r.prefix.Addr().IsLoopback() || r.prefix.Addr().IsLinkLocalUnicast() || r.device == "" {
			t.Errorf("route %v: want no default, loopback or link-local ones", r)
		}
	}
	conf, err := readResolvConf()
	if len(conf.Servers) == 0 {
		t.Errorf("resolvers: got none and error %v, want the loopback at the least", err)
	}
}
