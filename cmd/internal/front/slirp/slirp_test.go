package slirp

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/portfwd"
	"taproot/stack/nat"
	"taproot/stack/policy"
	"taproot/userns"
)

// A call runs a command line with an engine that is ready, waits for its
// context if wait is set, and then fails with err.
type call struct {
	err  error
	wait bool

	started        bool
	attachment     engine.Attachment // what the engine got
	config         engine.Config
	stdout, stderr bytes.Buffer
}

func (c *call) main(args ...string) (status int) {
	p := &program{
		name: "slirp4netns", version: "v1", out: &c.stdout, err: &c.stderr,
		attach: func(ctx context.Context, a engine.Attachment, cfg engine.Config) error {
			c.started, c.attachment, c.config = true, a, cfg
			if c.err != nil {
				return c.err
			}
			if err := cfg.Ready(&engine.Instance{Rules: portfwd.NewTable(portfwd.TableConfig{})}); err != nil {
				return err
			}
			if c.wait {
				<-ctx.Done()
			}
			return nil
		},
	}
	return p.main(context.Background(), args)
}

func TestConfig(t *testing.T) {
	const self = "/proc/self/ns/user"
	type want struct {
		engine.Config
		net plan.Slirp
		to  engine.Attachment
	}
	tests := []struct {
		args string
		want func(*want) // what differs from "7 tap0"
	}{
		{"7 tap0", func(*want) {}},
		{"-- 7 tap0", func(*want) {}},
		{"7 0123456789abcdefg", func(w *want) { w.net.Interface = "0123456789abcde" }},
		{"7 tap0 -c", func(w *want) { w.to.Bare = false }},
		{"--conf 7 tap0", func(w *want) { w.to.Bare = false }},
		{"-6 7 tap0", func(w *want) { w.net.IPv6 = true }},
		{"--enable-ipv6 7 tap0", func(w *want) { w.net.IPv6 = true }},
		{"-m 65521 7 tap0", func(w *want) { w.net.MTU = 65521 }},
		{"-m1 7 tap0", func(w *want) { w.net.MTU = 1 }},
		{"--mtu=576 --mtu=1400 7 tap0", func(w *want) { w.net.MTU = 1400 }},
		{"--cidr=10.7.0.0/25 7 tap0", func(w *want) { w.net.Net4 = netip.MustParsePrefix("10.7.0.0/25") }},
		{"--cidr=128.0.0.0/1 7 tap0", func(w *want) { w.net.Net4 = netip.MustParsePrefix("128.0.0.0/1") }},
		{"-c --macaddress=02:0:00:00:00:a 7 tap0", func(w *want) {
			w.to.Bare, w.net.MAC = false, net.HardwareAddr{2, 0, 0, 0, 0, 10}
		}},
		{"--macaddress=0200000000ff -c 7 tap0", func(w *want) {
			w.to.Bare, w.net.MAC = false, net.HardwareAddr{2, 0, 0, 0, 0, 255}
		}},
		{"--disable-host-loopback 7 tap0", func(w *want) { w.HostLoopback = policy.Ports{} }},
		{"--no-host-loopback 7 tap0", func(w *want) { w.HostLoopback = policy.Ports{} }},
		{"--disable-dns 7 tap0", func(w *want) { w.DNS, w.Announce.DNS = engine.DNS{Off: true}, false }},
		{"--enable-sandbox 7 tap0", func(w *want) { w.Sandbox.Files = true }},
		{"--create-sandbox 7 tap0", func(w *want) { w.Sandbox.Files = true }},
		{"--enable-seccomp 7 tap0", func(w *want) { w.Sandbox.Calls = true }},
		{"--outbound-addr=192.0.2.1 7 tap0", func(w *want) { w.Bind.Addr4 = netip.MustParseAddr("192.0.2.1") }},
		{"--outbound-addr=lo 7 tap0", func(w *want) { w.Bind.Addr4 = netip.MustParseAddr("127.0.0.1") }},
		{"--outbound-addr6=2001:db8::1 7 tap0", func(w *want) { w.Bind.Addr6 = netip.MustParseAddr("2001:db8::1") }},
		{"--userns-path=" + self + " 7 tap0", func(w *want) { w.to.Target.UserNS = self }},
		{"--netns-type=pid 7 tap0", func(*want) {}},
		{"--netns-type=path /proc/self/ns/net tap0", func(w *want) {
			w.to.Target = userns.Target{NetNS: "/proc/self/ns/net"}
		}},
		{"--netns-type=else --userns-path=" + self + " /proc/self/ns/net tap0", func(w *want) {
			w.to.Target = userns.Target{NetNS: "/proc/self/ns/net", UserNS: self}
		}},
		{"--target-type=netns 7 tap0", func(*want) {}},
		{"7 tap0 more", func(*want) {}},
		{"-e 999 7 tap0", func(*want) {}},
		{"-r 999 7 tap0", func(*want) {}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			w := want{
				Config: engine.Config{
					DNS:            engine.DNS{Ports: policy.AllPorts()},
					Announce:       engine.Announce{DNS: true, Search: true},
					HostLoopback:   policy.AllPorts(),
					AllowHost:      policy.AllPorts(),
					AllowLinkLocal: true,
					Denied:         nat.NetUnreachable,
				},
				net: plan.Slirp{Interface: "tap0", MTU: 1500, Net4: netip.MustParsePrefix("10.0.2.0/24")},
				to:  engine.Attachment{Target: userns.Target{PID: 7}, Bare: true, Follow: userns.FollowHolders},
			}
			tt.want(&w)
			w.Plan = w.net
			var c call
			if status := c.main(strings.Fields(tt.args)...); status != 0 {
				t.Fatalf("status %d: %s", status, &c.stderr)
			}
			got := c.config
			if got.Log == nil || got.Warn == nil || got.Ready == nil {
				t.Error("a log, the warnings or the readiness go nowhere")
			}
			got.Log, got.Warn, got.Ready = nil, nil, nil
			if !reflect.DeepEqual(got, w.Config) {
				t.Errorf("config: got %+v, want %+v", got, w.Config)
			}
			if !reflect.DeepEqual(c.attachment, w.to) {
				t.Errorf("attachment: got %+v, want %+v", c.attachment, w.to)
			}
		})
	}
}

func TestMisuse(t *testing.T) {
	const noUsage = false
	tests := []struct {
		args, want string
		usage      bool
	}{
		{"", "", true},
		{"7", "", true},
		{"--netns-type=path", "", true},
		{"--target-type=bess", "", true},
		{"--netns-type=tapfd", "", true},
		{"--xyz 7 tap0", "slirp4netns: unrecognized option '--xyz'\n", true},
		{"--enable-s 7 tap0", "slirp4netns: option '--enable-s' is ambiguous; possibilities: '--enable-sandbox' '--enable-seccomp'\n", true},
		{"-m 0 --xyz", "MTU must be a positive integer (< 65522)\n", true},
		{"-m 65522 7 tap0", "MTU must be a positive integer (< 65522)\n", true},
		{"-m x 7 tap0", "MTU must be a positive integer (< 65522)\n", true},
		{"-e -1 7 tap0", "exit-fd must be a non-negative integer\n", true},
		{"-r 3x 7 tap0", "ready-fd must be a non-negative integer\n", true},
		{"0 tap0", "PID must be a positive integer\n", true},
		{"12x tap0", "PID must be a positive integer\n", true},
		{"--netns-type=tapfd x", "tapfd must be a non-negative integer\n", true},
		{"--netns-type=tapfd -c 3", "--configure conflicts with --netns-type=tapfd\n", true},
		{"--macaddress 02:00:00:00:00:01 7 tap0", "--macaddr cannot be specified when --configure or -c is not specified\n", true},
		{"--userns-path /nonexistent 7 tap0", "userns path doesn't exist: /nonexistent\n", true},
		{"--netns-type=path /nonexistent tap0", "existing path expected when --netns-type=path: no such file or directory\n", true},
		{"--target-type x 7 tap0", "--target-type must be either \"netns\" or \"bess\"\n", true},
		{"--target-type bess -c /x", "--configure conflicts with --target-type=bess\n", true},
		{"--target-type bess --netns-type path /x", "--netns-type conflicts with --target-type=bess\n", true},
		{"--target-type bess --userns-path /proc/self/ns/user /x", "--userns-path conflicts with --target-type=bess\n", true},
		{"--target-type bess /x tap0", "too many arguments\n", true},

		{"--cidr=10.0.2.0/26 7 tap0", "prefix length needs to be 1-25\n", noUsage},
		{"--cidr=10.0.2.0/0 7 tap0", "prefix length needs to be 1-25\n", noUsage},
		{"--cidr=10.0.2.0/999999999999999999999 7 tap0", "prefix length needs to be 1-25\n", noUsage},
		{"--cidr=10.0.2.9/24 7 tap0", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.9/24\n", noUsage},
		{"--cidr=10.0.2.0 7 tap0", "invalid CIDR: 10.0.2.0\n", noUsage},
		{"--cidr=10.0.2.0/-1 7 tap0", "invalid CIDR: 10.0.2.0/-1\n", noUsage},
		{"--cidr=10.0.2/24 7 tap0", "invalid CIDR: 10.0.2/24\n", noUsage},
		{"--cidr=fd00::/64 7 tap0", "invalid CIDR: fd00::/64\n", noUsage},
		{"--cidr= 7 tap0", "invalid CIDR: \n", noUsage},
		{"--cidr=300.0.2.0/24 7 tap0", "invalid network address: 300.0.2.0\n", noUsage},
		{"--outbound-addr=nonsense 7 tap0", `outbound-addr has to be valid ipv4 address or interface name: "nonsense": no such interface` + "\n", noUsage},
		{"--outbound-addr=::1 7 tap0", `outbound-addr has to be valid ipv4 address or interface name: "::1": wrong address family` + "\n", noUsage},
		{"--outbound-addr6=127.0.0.1 7 tap0", `outbound-addr6 has to be valid ipv6 address or interface name: "127.0.0.1": wrong address family` + "\n", noUsage},
		{"--macaddress=02:00 -c 7 tap0", invalidMAC("02:00"), noUsage},
		{"--macaddress=02:00:00:00:00:zz -c 7 tap0", invalidMAC("02:00:00:00:00:zz"), noUsage},
		{"--macaddress=01:00:00:00:00:01 -c 7 tap0", invalidMAC("01:00:00:00:00:01"), noUsage},
		{"--macaddress=02:00:00:00:00:01:02 -c 7 tap0", invalidMAC("02:00:00:00:00:01:02"), noUsage},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var c call
			if got := c.main(strings.Fields(tt.args)...); got != 1 || c.started {
				t.Errorf("got status %d, started %v, want 1 and not", got, c.started)
			}
			if got := c.stderr.String(); got != tt.want {
				t.Errorf("standard error: got %q, want %q", got, tt.want)
			}
			if got := c.stdout.String() == Help; got != tt.usage {
				t.Errorf("usage: got %v, want %v", got, tt.usage)
			}
		})
	}
}

func invalidMAC(s string) string {
	return `"` + s + `" is an invalid MAC address.` + "\n" +
		"macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':')\n"
}

// Help and version come when the option is met, whatever comes after.
func TestHelpAndVersion(t *testing.T) {
	version := "slirp4netns version 1.3.3\ncommit: taproot v1\n"
	for args, want := range map[string]string{
		"--help": Help, "-h": Help, "--help --xyz": Help, "--cidr=x --he": Help,
		"--version": version, "-v -m x": version,
	} {
		var c call
		if got := c.main(strings.Fields(args)...); got != 0 {
			t.Errorf("%s: got status %d, want 0", args, got)
		}
		if got := c.stdout.String(); !strings.HasPrefix(got, want) || c.stderr.Len() != 0 {
			t.Errorf("%s: got %q and %q, want %q", args, got, &c.stderr, want)
		}
	}
	if got := strings.Count(versionText("v1"), "\n"); got != 5 {
		t.Errorf("version: got %d lines, want 5", got)
	}
}

func TestHelpNamesEachOption(t *testing.T) {
	for _, name := range new(options).register(nil).Names() {
		want := name != "no-host-loopback" && name != "create-sandbox" // old names
		if got := strings.Contains(Help, "\n--"+name) || strings.Contains(Help, ", --"+name); got != want {
			t.Errorf("--%s: in the help %v, want %v", name, got, want)
		}
	}
	for line := range strings.SplitSeq(Help, "\n") {
		if len(line) > 80 {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
}

func TestDescribe(t *testing.T) {
	var c call
	path := filepath.Join(t.TempDir(), "api")
	c.main("--api-socket="+path, "--cidr=10.9.8.128/25", "--outbound-addr=192.0.2.1", "--outbound-addr6=2001:db8::1", "7", "tap0")
	want := `Starting slirp
* MTU:             1500
* Network:         10.9.8.128
* Netmask:         255.255.255.128
* Gateway:         10.9.8.130
* DNS:             10.9.8.131
* DHCP begin:      10.9.8.143
* DHCP end:        10.9.8.158
* Recommended IP:  10.9.8.228
* API Socket:      ` + path + `
* Outbound IPv4:    192.0.2.1
* Outbound IPv6:    2001:db8::1
WARNING: 127.0.0.1:* on the host is accessible as 10.9.8.130 (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)
`
	if got := c.stdout.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWarnings(t *testing.T) {
	var c call
	c.main("--create-sandbox", "--no-host-loopback", "7", "tap0", "more")
	want := "WARNING: --create-sandbox is deprecated, please use --enable-sandbox instead.\n" +
		"WARNING: --no-host-loopback is deprecated, please use --disable-host-loopback instead.\n" +
		"WARNING: too many arguments\n" +
		"Starting slirp\n"
	if got := c.stdout.String(); !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A hinted error is one of another package.
type hinted struct{ message, hint string }

func (h *hinted) Error() string { return h.message }
func (h *hinted) Hint() string  { return h.hint }

func TestFailure(t *testing.T) {
	c := call{err: &hinted{"open x: gone", "do y"}}
	if got := c.main("7", "tap0"); got != 1 {
		t.Errorf("got status %d, want 1", got)
	}
	if got, want := c.stderr.String(), "slirp4netns: open x: gone\nslirp4netns: hint: do y\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// inherit makes a pipe and a copy of the end that index names, as a caller
// would leave it open for us.
func inherit(t *testing.T, index int) (copied string, other *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*os.File{r, w}
	fd, err := syscall.Dup(int(ends[index].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	ends[index].Close()
	t.Cleanup(func() { ends[1-index].Close() })
	return strconv.Itoa(fd), ends[1-index]
}

func TestReady(t *testing.T) {
	fd, r := inherit(t, 1)
	var c call
	if got := c.main("-r", fd, "7", "tap0"); got != 0 {
		t.Fatalf("got status %d: %s", got, &c.stderr)
	}
	b := make([]byte, 16)
	n, err := r.Read(b)
	if string(b[:n]) != "1" || err != nil {
		t.Errorf("got %q, %v, want the byte 1", b[:n], err)
	}
	if n, err := r.Read(b); n != 0 || err == nil {
		t.Errorf("got %q, %v, want the end", b[:n], err)
	}
}

func TestNotReady(t *testing.T) {
	fd, r := inherit(t, 1)
	c := call{err: errors.New("no")}
	c.main("-r", fd, "7", "tap0")
	n, _ := strconv.Atoi(fd)
	syscall.Close(n) // as the end of the process does
	if n, err := r.Read(make([]byte, 16)); n != 0 || err == nil {
		t.Errorf("got %d bytes, %v, want the end", n, err)
	}
}

func TestExit(t *testing.T) {
	fd, w := inherit(t, 0)
	if _, err := w.WriteString("x"); err != nil { // does not matter
		t.Fatal(err)
	}
	w.Close()
	wantExit(t, fd)
}

// A descriptor that the caller did not pass counts as one that has hung up.
func TestExitNotOpen(t *testing.T) {
	own, err := os.Open("/dev/null") // ours: it closes on exec
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for _, fd := range []string{"999999", "99999999999", strconv.Itoa(int(own.Fd()))} {
		wantExit(t, fd)
	}
}

// wantExit wants an end by the exit descriptor fd, without a socket left.
func wantExit(t *testing.T, fd string) {
	t.Helper()
	api := filepath.Join(t.TempDir(), "api")
	c := call{wait: true}
	if got := c.main("-e", fd, "-a", api, "7", "tap0"); got != 0 || !c.started {
		t.Errorf("got status %d, started %v, want 0 and started", got, c.started)
	}
	if got, want := c.stderr.String(), "exitfd event\ndo_slirp is exiting\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := os.Lstat(api); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("API socket: got %v, want it gone", err)
	}
}

func TestAPIPath(t *testing.T) {
	tests := []struct{ path, want string }{
		{"/" + strings.Repeat("x", 107), "slirp4netns: the specified API socket path is too long (>= 108)\n"},
		{"/nonexistent/api", "slirp4netns: API socket /nonexistent/api: no such file or directory\n"},
	}
	for _, tt := range tests {
		var c call
		if got := c.main("-a", tt.path, "7", "tap0"); got != 1 || c.started {
			t.Errorf("got status %d, started %v, want 1 and not", got, c.started)
		}
		if got := c.stderr.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add("10.0.2.0/24")
	f.Add("02:0:00:00:00:01")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseCIDR(s); err == nil && (!p.Addr().Is4() || p.Bits() > 25 || p != p.Masked()) {
			t.Errorf("parseCIDR(%q) = %v", s, p)
		}
		if m, err := parseMAC(s); err == nil && len(m) != 6 {
			t.Errorf("parseMAC(%q) = %v", s, m)
		}
	})
}

// The man page is edited by hand.
func TestManPage(t *testing.T) {
	const path = "../../../../docs/man/taproot-slirp4netns.1"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	names := new(options).register(nil).Names()
	item := regexp.MustCompile(`(?m)^\.(?:It )?Fl (?:\w , Fl )?-([a-z0-9-]+)`)
	found := map[string]bool{}
	for _, m := range item.FindAllStringSubmatch(string(page), -1) {
		found[m[1]] = true
		if !slices.Contains(names, m[1]) {
			t.Errorf("%s: --%s is no option", path, m[1])
		}
	}
	for _, name := range names {
		if !found[name] {
			t.Errorf("%s: no --%s", path, name)
		}
	}
}

// TestBessDirectory wants what is in the socket's place, and no socket, to stay.
func TestBessDirectory(t *testing.T) {
	path := t.TempDir()
	if f, err := new(program).acceptBess(t.Context(), path); err == nil {
		f.Close()
		t.Error("got a connection, want an error")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
