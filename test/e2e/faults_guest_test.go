package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// TestGuestChangesDevice: what a guest does to its device it does to itself, and what
// it undoes is as before.
func TestGuestChangesDevice(t *testing.T) {
	lab.NeedProgram(t, "ip")
	const size = 300_000
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		s, guest := newPublished(t, l, append(options, "-p", "8080:80")...)
		serveEchoes(t, guest, 80)
		web := serveWeb(t, l.Outside)
		udp := join(lab.Outside4, serveUDPEcho(t, l.Outside, join(lab.Outside4, 0)))
		works := func(name string) {
			t.Helper()
			get := fmt.Sprintf("curl -sS --max-time 40 %s | sha256sum", url(lab.Outside4, web, fmt.Sprint("/bytes/", size)))
			if got, want := strings.Fields(s.must(get))[0], hash(body(size)); got != want {
				t.Errorf("%s: down: got hash %s, want %s", name, got, want)
			}
			put := fmt.Sprintf("head -c %d /dev/zero | curl -sS --max-time 40 -T - %s", size, url(lab.Outside4, web, "/hash"))
			if got, want := strings.TrimSpace(s.must(put)), hash(strings.NewReader(strings.Repeat("\x00", size))); got != want {
				t.Errorf("%s: up: got hash %s, want %s", name, got, want)
			}
			wantText(t, name+": UDP", newUDPClient(t, guest, udp).ask(), "?")
			awaitCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
		}
		lab.NeedProgram(t, "curl")
		works("as it was")
		for _, mtu := range []int{576, 1280, 9000, 65520, 1500} {
			s.must(fmt.Sprint("ip link set tap0 mtu ", mtu))
			works(fmt.Sprint("MTU ", mtu))
		}
		const restore = "ip addr add 10.0.2.100/24 dev tap0; ip route replace default via 10.0.2.2"
		s.must("ip link set tap0 down && ip link set tap0 up && ip route replace default via 10.0.2.2")
		works("down and up")
		s.must("ip addr flush dev tap0; ip addr add 10.0.2.55/24 dev tap0; ip route replace default via 10.0.2.2")
		if out, status := s.do("curl -sS --max-time 1 " + url(lab.Outside4, web, "/peer")); status == 0 {
			t.Errorf("with an address that is not the guest's: got %q, want nobody", out)
		}
		s.must("ip addr flush dev tap0; " + restore)
		works("with the address again")
		s.must("ip link set tap0 address 02:00:00:00:00:77")
		works("another hardware address")
	})
}

// TestGuestDeletesDevice: a guest without a device goes on, and ends as it wants to.
func TestGuestDeletesDevice(t *testing.T) {
	lab.NeedProgram(t, "ip")
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		s, _ := newPublished(t, l, append(options, "-p", "8080:80")...)
		port := serveTCP(t, l.Outside, echo)
		wantText(t, "before", s.must(program(l, "connect", join(lab.Outside4, port))), "connected")
		s.must("ip link del tap0")
		l.Eventually("the user is told", func() bool { return strings.Contains(s.Err(), "the guest has no network any more") })
		wantText(t, "afterwards", s.must(program(l, "connect", join(lab.Outside4, port))), "ENETUNREACH")
		fmt.Fprintln(s.in, "exit 7")
		if got := s.Status(); got != 7 {
			t.Errorf("status: got %d, want 7", got)
		}
	})
}

// TestFullDiskLater: a capture and a log whose disk is full from some moment on end
// there, and the guest goes on.
func TestFullDiskLater(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	serveName(t, h.Outside, "tcp", ":7000", "outside")
	small := smallDisk(t, h.Lab, "size=16k,mode=0777")
	c := h.container()
	h.attach("--config-net", "--pcap", filepath.Join(small, "pcap"), "--log-file", filepath.Join(small, "log"), c.pid)
	h.Eventually("the disk is full", func() bool {
		wantCall(t, c.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
		var st unix.Statfs_t
		if err := h.Host.Do(func() error { return unix.Statfs(small, &st) }); err != nil {
			t.Fatal(err)
		}
		return st.Bavail == 0
	})
	for range 20 {
		wantCall(t, c.Namespace, "tcp", join(lab.Outside4, 7000), "outside "+lab.Host4)
	}
}

// smallDisk mounts a tmpfs with these options in the host until the test ends.
func smallDisk(t *testing.T, l *lab.Lab, options string) string {
	t.Helper()
	path := filepath.Join(l.Dir, "small")
	if err := os.Mkdir(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := l.Host.Do(func() error { return unix.Mount("tmpfs", path, "tmpfs", 0, options) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Host.Do(func() error { return unix.Unmount(path, unix.MNT_DETACH) }); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	return path
}
