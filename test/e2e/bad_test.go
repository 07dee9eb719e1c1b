package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// wantFailure fails the test unless c failed in the way all failures look: this
// exit status, nothing on standard output, one line with the reason and one
// with what to do.
func wantFailure(t *testing.T, c *lab.Cmd, status int) {
	t.Helper()
	if got := c.Status(); got != status {
		t.Errorf("status: got %d, want %d", got, status)
	}
	lines := strings.Split(strings.TrimSpace(c.Err()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "taproot: ") || !strings.HasPrefix(lines[1], "taproot: hint: ") {
		t.Errorf("message: got %q, want one line and a hint", c.Err())
	}
	if c.Out() != "" {
		t.Errorf("standard output: got %q, want nothing", c.Out())
	}
}

// TestMisuse: mistakes on the command line.
func TestMisuse(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tests := []struct {
		name string
		args []string
	}{
		{"unknown command", []string{"frobnicate"}},
		{"unknown option", []string{"run", "--frobnicate", "true"}},
		{"bad net", []string{"run", "--net=10.0.2.0/99", "true"}},
		{"net of the other family", []string{"run", "--net=fd00::/64", "true"}},
		{"net too small", []string{"run", "--net=10.0.2.0/30", "true"}},
		{"bad net6", []string{"run", "--net6=nonsense", "true"}},
		{"mtu too small", []string{"run", "--mtu=67", "true"}},
		{"mtu too large", []string{"run", "--mtu=65536", "true"}},
		{"mtu is no number", []string{"run", "--mtu=big", "true"}},
		{"bad mac", []string{"run", "--mac=00:11", "true"}},
		{"bad port", []string{"run", "--host-loopback=70000", "true"}},
		{"bad dns", []string{"run", "--dns=nonsense", "true"}},
		{"bad offload", []string{"run", "--offload=maybe", "true"}},
		{"name too long", []string{"run", "--ifname=a-name-too-long-for-linux", "true"}},
		{"nothing left", []string{"run", "--ipv4=off", "--ipv6=off", "true"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantFailure(t, taproot(l.With(t), tt.args...).MustStart(), 2)
		})
	}
}

// TestNotPossible: what the machine does not allow. run and check say the same.
func TestNotPossible(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(t *testing.T, l *lab.Lab)
		prefix  func(l *lab.Lab) []string // words before taproot
		remedy  string                    // part of the hint, the same from both
	}{
		{name: "no tun", prepare: func(t *testing.T, l *lab.Lab) {
			mountOn(t, l, "tmpfs", "/dev/net")
		}, remedy: "modprobe tun"},
		{name: "tun for root only", prepare: func(t *testing.T, l *lab.Lab) {
			// Any file that only the machine's root may open.
			mountOn(t, l, "/etc/shadow", "/dev/net/tun")
		}, remedy: "chmod"},
		{name: "user namespaces off", prefix: func(l *lab.Lab) []string {
			return l.ProgramArgs("fewids")
		}, remedy: "user.max_user_namespaces"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			if tt.prepare != nil {
				tt.prepare(t, l)
			}
			start := func(args ...string) *lab.Cmd {
				if tt.prefix == nil {
					return taproot(l, args...).MustStart()
				}
				words := append(append(tt.prefix(l), l.TaprootPath()), args...)
				c := l.Host.Command(words[0], words[1:]...)
				c.SysProcAttr = rootOfOneMore()
				return c.MustStart()
			}
			run := start("run", "--api=off", "--", "true") // whose user has no directory for it
			wantFailure(t, run, 125)
			wantContains(t, "hint of run", run.Err(), tt.remedy)
			check := start("check")
			if got := check.Status(); got == 0 {
				t.Errorf("check: got status 0, but run does not work")
			}
			wantContains(t, "check", check.Out(), tt.remedy)
		})
	}
}

// mountOn mounts tmpfs, or binds a file, in the host's mount namespace.
func mountOn(t *testing.T, l *lab.Lab, source, target string) {
	t.Helper()
	err := l.Host.Do(func() error {
		if source == "tmpfs" {
			return unix.Mount("tmpfs", target, "tmpfs", 0, "")
		}
		return unix.Mount(source, target, "", unix.MS_BIND, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Host.Do(func() error { return unix.Unmount(target, unix.MNT_DETACH) })
	})
}

// TestUnreadableResolvConf: a guest without names is better than none, but the
// user is told, unless the host's resolvers are not asked for.
func TestUnreadableResolvConf(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.Host.Command("chmod", "000", "/etc/resolv.conf").MustRun()
	c := guest(l, nil, "true")
	c.MustRun()
	lines := strings.Split(strings.TrimSpace(c.Err()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "taproot: ") || !strings.HasPrefix(lines[1], "taproot: hint: ") {
		t.Errorf("message: got %q, want one line and a hint", c.Err())
	}
	wantContains(t, "message", c.Err(), "/etc/resolv.conf", "--dns=")
	c = guest(l, []string{"--dns=" + lab.Outside4}, "true")
	c.MustRun()
	wantText(t, "message with --dns", c.Err(), "")
}

// TestFullDisk has no room in any directory for temporary files, nor on
// standard output.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	full := filepath.Join(l.Dir, "full")
	l.Host.Command("mkdir", full).MustRun()
	err := l.Host.Do(func() error {
		if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=4k,mode=0777"); err != nil {
			return err
		}
		for _, at := range []string{"/var/tmp", "/run"} {
			if err := unix.Mount(full, at, "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Host.Do(func() error {
			for _, at := range []string{"/var/tmp", "/run", full} {
				if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
					t.Errorf("unmount %s: %v", at, err)
				}
			}
			return nil
		})
	})
	l.Host.Command("sh", "-c", "head -c 8192 /dev/zero >"+full+"/filler").Run()
	c := guest(l, nil, "true")
	c.Env = append(c.Env, "TMPDIR="+full, "XDG_RUNTIME_DIR="+full, "HOME="+full)
	if err := c.Run(); err != nil {
		wantFailure(t, c, 125)
	}
	left := strings.Fields(l.Host.Command("ls", full).MustRun())
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	for _, args := range []string{"check", "check --json", "--help"} {
		c := l.User("sh", "-c", l.TaprootPath()+" "+args+" >/dev/full").MustStart()
		wantFailure(t, c, 125)
		wantContains(t, "message", c.Err(), "no space left on device")
	}
}

// TestDescriptorsOnTheirWay: the kernel counts the descriptors that all of a
// user's processes have on their way, and refuses more than one may have open.
// A start waits for others of them to arrive.
func TestDescriptorsOnTheirWay(t *testing.T) {
	l := newLab(t)
	program := l.ProgramArgs("in-flight", "150", "1s")
	others := l.User(program[0], program[1:]...).MustStart()
	l.Eventually("descriptors are on their way", func() bool { return others.Out() == "ready\n" })
	c := l.User("sh", "-c", `ulimit -n 100; exec "$@"`, "sh", l.TaprootPath(), "run", "-p", "8080:80", "--", "echo", "works")
	c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
	if got := c.MustRun(); got != "works\n" {
		t.Errorf("got %q", got)
	}
}

// inFlightProgram N DURATION has N descriptors on their way (SCM_RIGHTS in
// unix(7)) for a time, and says "ready" when they are.
func inFlightProgram(args []string) int {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return quit(err)
	}
	length, err := time.ParseDuration(args[1])
	if err != nil {
		return quit(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return quit(err)
	}
	for range n {
		if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(pair[0]), nil, 0); err != nil {
			return quit(err)
		}
	}
	fmt.Println("ready")
	time.Sleep(length)
	return 0
}
