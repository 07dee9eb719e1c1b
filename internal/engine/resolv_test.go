package engine

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/plan"
)

func testPlan(t *testing.T, o plan.Offsets) *plan.Plan {
	t.Helper()
	p, err := o.Plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

func testSpec(t *testing.T, o plan.Offsets, cfg Config) *spec {
	t.Helper()
	return newSpec(testPlan(t, o), &cfg)
}

func TestGuestResolvConf(t *testing.T) {
	for _, tt := range []struct {
		name   string
		plan   plan.Offsets
		search []string
		want   string
	}{
		{"both", plan.Offsets{}, nil, "nameserver 10.0.2.3\nnameserver fd00::3\n"},
		{"IPv4", plan.Offsets{Net6: plan.Network{Off: true}}, nil, "nameserver 10.0.2.3\n"},
		{"IPv6, search", plan.Offsets{Net4: plan.Network{Off: true}}, []string{"example.test", "test"}, "nameserver fd00::3\nsearch example.test test\n"},
	} {
		if got := string(guestResolvConf(testPlan(t, tt.plan), hostState{Search: tt.search})); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestGuestHosts(t *testing.T) {
	got := string(guestHosts(testPlan(t, plan.Offsets{})))
	if want := "\n10.0.2.2 host.taproot.internal\nfd00::2 host.taproot.internal\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q at the end", got, want)
	}
	if host, err := os.ReadFile(hostsPath); err == nil && !strings.HasPrefix(got, string(host)) {
		t.Errorf("got %q, want the host's own first", got)
	}
	got = string(guestHosts(testPlan(t, plan.Offsets{Net6: plan.Network{Off: true}})))
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
	addresses, err := plan.HostAddresses()
	if err != nil {
		t.Fatal(err)
	}
	if len(addresses) > 0 && !slices.ContainsFunc(addresses, netip.Addr.IsLoopback) {
		t.Errorf("addresses: got %v, want a loopback among them", addresses)
	}
	conf, err := readResolvConf()
	if len(conf.Servers) == 0 {
		t.Errorf("resolvers: got none and error %v, want the loopback at the least", err)
	}
}

// TestReadConf wants no file to keep the supervisor waiting, or to be too long for
// a message.
func TestReadConf(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(at("file"), []byte("nameserver ::1\n"), 0o600),
		os.WriteFile(at("long"), bytes.Repeat([]byte("search x\n"), 100_000), 0o600),
		unix.Mkfifo(at("pipe"), 0o600), os.Symlink("pipe", at("link")), os.Symlink("/dev/null", at("null")), os.Symlink("loop", at("loop")),
	); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(at("pipe"), os.O_RDWR, 0) // who opens it for reading only is not kept waiting then
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for name, want := range map[string]int{"file": 15, "long": maxConf, "null": 0, "pipe": -1, "link": -1, "loop": -1, "none": -1, ".": -1} {
		b, err := readConf(at(name))
		if got := len(b); err == nil && got != want || err != nil && want >= 0 {
			t.Errorf("%s: got %d bytes and error %v, want %d", name, got, err, want)
		}
	}
}
