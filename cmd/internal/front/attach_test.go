package front

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/internal/engine"
	"taproot/internal/plan"
	"taproot/userns"
)

func TestAttachConfig(t *testing.T) {
	type want struct {
		engine.Config
		net plan.Offsets
		to  engine.Attachment
	}
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	named := filepath.Join(dir, "netns", "blue")
	if err := os.MkdirAll(named, 0o700); err != nil { // any file will do
		t.Fatal(err)
	}
	const self = "/proc/self/ns/user"
	tests := []struct {
		args string
		want func(*want) // what differs from "7"
	}{
		{"7", func(*want) {}},
		{"-- 7", func(*want) {}},
		{"7 --userns=" + self, func(w *want) { w.to.Target.UserNS = self }},
		{"/proc/self/ns/net", func(w *want) { w.to.Target = userns.Target{NetNS: "/proc/self/ns/net"} }},
		{"./7", func(w *want) { w.to.Target = userns.Target{NetNS: "./7"} }},
		{"--userns=" + self + " blue", func(w *want) { w.to.Target = userns.Target{NetNS: named, UserNS: self} }},
		{"--configure=off 7", func(w *want) { w.to.Bare = true }},
		{"--net=10.9.0.0/24 --ifname=eth0 7", func(w *want) {
			w.net.Net4.Prefix, w.net.Interface = netip.MustParsePrefix("10.9.0.0/24"), "eth0"
		}},
		{"--ipv6=off 7", func(w *want) { w.net.Net6.Off = true }},
		{"--host-loopback=80 7", func(w *want) { w.HostLoopback = ports(t, "80") }},
		{"--dns=off 7", func(w *want) { w.DNS.Off, w.Announce.DNS = true, false }},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			w := want{
				net: plan.Offsets{Interface: "tap0", MTU: 1500},
				to:  engine.Attachment{Target: userns.Target{PID: 7}, Follow: userns.FollowHolders},
			}
			w.Announce, w.Refuse = engine.Announce{DNS: true, Search: true}, true
			tt.want(&w)
			w.Plan = w.net
			var c call
			if status := c.main(append([]string{"attach"}, strings.Fields(tt.args)...)...); status != 0 {
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

func TestAttachMisuse(t *testing.T) {
	tests := []string{
		"",
		"7 8",
		"0",
		"99999999999",
		"--tap-fd=1 7",
		"--tap-fd=1 --userns=/proc/self/ns/user",
		"--tap-fd=1 --configure=off",
		"--tap-fd=1 --ifname=eth0",
		"--tap-fd=1 --mac=02:00:00:00:00:01",
		"--tap-fd=999999",
		"--tap-fd=x",
		"--ready-fd=-1 7",
		"--ready-fd=999999 7",
		"--exit-fd=999999 7",
		"--userns=/nonexistent 7",
		"--configure=off --mac=02:00:00:00:00:01 7",
		"--ipv4=off --ipv6=off 7",
		"--pid 7",
	}
	for _, args := range tests {
		t.Run(args, func(t *testing.T) {
			var c call
			if got := c.main(append([]string{"attach"}, strings.Fields(args)...)...); got != statusMisuse || c.started {
				t.Errorf("got status %d, started %v, want %d and not: %s", got, c.started, statusMisuse, &c.stderr)
			}
			if got := c.stderr.String(); !strings.HasPrefix(got, "taproot: ") {
				t.Errorf("got %q, want an error", got)
			}
		})
	}
}

func TestAttachUnknownName(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/nonexistent")
	var c call
	if got := c.main("attach", "green"); got != statusFailure {
		t.Errorf("got status %d, want %d", got, statusFailure)
	}
	want := "taproot: attach green: no such namespace in /nonexistent/netns or /run/netns\n" +
		"taproot: hint: name a process by its number, and any namespace by its path: ./green\n"
	if got := c.stderr.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAttachDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd, err := syscall.Dup(int(w.Fd())) // as a caller leaves it open for us
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var c call
	if got := c.main("attach", "--ready-fd="+strconv.Itoa(fd), "7"); got != 0 {
		t.Fatalf("status %d: %s", got, &c.stderr)
	}
	b := make([]byte, 16)
	if n, err := r.Read(b); string(b[:n]) != "1" || err != nil {
		t.Errorf("got %q, %v, want 1", b[:n], err)
	}
}
