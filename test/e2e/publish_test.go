package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"taproot/test/lab"
)

// newPublished starts a guest that publishes, and returns its network.
func newPublished(t *testing.T, l *lab.Lab, options ...string) (*shell, *lab.Namespace) {
	t.Helper()
	s := newShell(t, l, options...)
	return s, networkOf(t, l, s)
}

// bothWays runs a test with the shortcut and without, where there is one.
func bothWays(t *testing.T, test func(t *testing.T, l *lab.Lab, options []string)) {
	t.Parallel()
	for _, c := range columns()[1:] {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			if c.shortcut {
				needTProxy(t, l)
			}
			test(t, l, c.options)
		})
	}
}

// TestPublish asks for published ports from wherever they shall be reached, and
// from elsewhere.
func TestPublish(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		lab.Need(t, lab.IPv6)
		_, guest := newPublished(t, l, append(slices.Clone(options),
			"-p", "8080:80/tcp,udp", "-p", "192.0.2.2:8081:81", "-p", "["+lab.Host6+"]:8081:81/udp",
			"-p", "*:8082-8084:82-84", "-p", "*:8082:82/udp", "-p", "*:8090:80/tcp,udp,source=gateway")...)
		serveEchoes(t, guest, 80, 81, 82, 84)
		for _, tt := range []struct {
			from                   *lab.Namespace
			network, address, want string // "": nobody
		}{
			{l.Host, "tcp", "127.0.0.1:8080", "80 " + gateway4},
			{l.Host, "tcp", "[::1]:8080", "80 " + gateway6},
			{l.Host, "udp", "127.0.0.1:8080", "80 " + gateway4},
			{l.Host, "udp", "[::1]:8080", "80 " + gateway6},
			{l.Outside, "tcp", join(lab.Host4, 8080), ""},
			{l.Outside, "tcp", join(lab.Host4, 8081), "81 " + lab.Outside4},
			{l.Outside, "tcp", join(lab.Host6, 8081), ""},
			{l.Outside, "udp", join(lab.Host6, 8081), "81 " + lab.Outside6},
			{l.Host, "tcp", join(lab.Host4, 8081), "81 " + gateway4},
			{l.Host, "tcp", "127.0.0.1:8081", ""},
			{l.Outside, "tcp", join(lab.Host4, 8082), "82 " + lab.Outside4},
			{l.Outside, "tcp", join(lab.Host6, 8084), "84 " + lab.Outside6},
			{l.Outside, "tcp", join(lab.Host4, 8083), ""}, // nobody listens in the guest
			{l.Outside, "udp", join(lab.Host4, 8082), "82 " + lab.Outside4},
			{l.Outside, "tcp", join(lab.Host4, 8090), "80 " + gateway4},
			{l.Outside, "tcp", join(lab.Host6, 8090), "80 " + gateway6},
			{l.Outside, "udp", join(lab.Host4, 8090), "80 " + gateway4},
			{l.Outside, "udp", join(lab.Host6, 8090), "80 " + gateway6},
		} {
			if tt.want == "" {
				wantNobody(t, tt.from, tt.network, tt.address)
			} else {
				wantCall(t, tt.from, tt.network, tt.address, tt.want)
			}
		}
	})
}

// TestPublishOneFamily: a program that listens on one family is reached by both.
func TestPublishOneFamily(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		lab.Need(t, lab.IPv6)
		_, guest := newPublished(t, l, append(slices.Clone(options), "-p", "8080:80", "-p", "*:8081:81")...)
		serveName(t, guest, "tcp4", ":80", "IPv4")
		serveName(t, guest, "tcp6", ":81", "IPv6")
		wantCall(t, l.Host, "tcp", "[::1]:8080", "IPv4 "+gateway4)
		wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "IPv6 "+gateway6)
		wantCall(t, l.Outside, "tcp", join(lab.Host4, 8081), "IPv6 "+gateway6)
	})
}

// TestPublishPicked: ports that the kernel picks are told.
func TestPublishPicked(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, guest := newPublished(t, l, "-p", "80", "-p", "127.0.0.1::81/udp", "-p", "8085:82", "--reach=5432:0")
	serveEchoes(t, guest, 80, 81)
	picked := regexp.MustCompile(`(?m)^taproot: publish (\d+):80\ntaproot: publish 127\.0\.0\.1:(\d+):81/udp\ntaproot: reach   5432:(\d+)\n`)
	var m []string
	l.Eventually("what was picked is told", func() bool { m = picked.FindStringSubmatch(s.Err()); return m != nil })
	wantCall(t, l.Host, "tcp", "127.0.0.1:"+m[1], "80 "+gateway4)
	wantCall(t, l.Host, "udp", "127.0.0.1:"+m[2], "81 "+gateway4)
	serveName(t, l.Host, "tcp", "127.0.0.1:5432", "host")
	wantCall(t, guest, "tcp", "127.0.0.1:"+m[3], "host 127.0.0.1")
}

// TestPublishErrors says what is wrong and what to do, before the command runs.
func TestPublishErrors(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	serveName(t, l.Host, "tcp", "127.0.0.1:8080", "taken")
	for _, tt := range []struct {
		options []string
		want    []string
	}{
		{[]string{"-p", "8080:80"}, []string{"taproot: publish 127.0.0.1:8080/tcp: ", "address already in use"}},
		{[]string{"-p", "81:80"}, []string{"taproot: publish 127.0.0.1:81/tcp: ", "permission denied", "taproot: hint: ", "ip_unprivileged_port_start=81"}},
		{[]string{"-p", "8079-8081:79-81"}, []string{"8080/tcp: ", "address already in use"}},
	} {
		c := guest(l, tt.options, "echo", "runs")
		err := c.Run()
		if status := c.Status(); err == nil || status != 125 || c.Out() != "" {
			t.Errorf("%v: got status %d, output %q, want 125 and none", tt.options, status, c.Out())
		}
		wantContains(t, strings.Join(tt.options, " "), c.Err(), tt.want...)
	}
}

// TestPublishProxy reads the header that a guest's program gets.
func TestPublishProxy(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		_, guest := newPublished(t, l, append(slices.Clone(options),
			"-p", "*:8081:80,proxy=v1,source=gateway", "-p", "*:8082:80,proxy=v2")...)
		listener := guest.Listen("tcp", ":80")
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				answerProxied(c)
			}
		}()
		for _, tt := range []struct {
			from          *lab.Namespace
			address, want string
		}{
			{l.Outside, join(lab.Host4, 8081), "v1 " + lab.Outside4 + " to " + join(lab.Host4, 8081) + " by " + gateway4},
			{l.Outside, join(lab.Host4, 8082), "v2 " + lab.Outside4 + " to " + join(lab.Host4, 8082) + " by " + lab.Outside4},
			{l.Host, "127.0.0.1:8082", "v2 " + gateway4 + " to " + join(guest4, 80) + " by " + gateway4},
		} {
			wantCall(t, tt.from, "tcp", tt.address, tt.want)
		}
	})
}

// answerProxied tells a client what its header said, and who it seems to be.
func answerProxied(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	h, err := proxyproto.Read(r)
	if err != nil {
		return
	}
	from, to, ok := h.TCPAddrs()
	if !ok {
		return
	}
	peer, _, _ := net.SplitHostPort(c.RemoteAddr().String())
	if _, err := r.ReadByte(); err == nil {
		c.Write([]byte("v" + string('0'+h.Version) + " " + from.IP.String() + " to " + to.String() + " by " + strings.TrimPrefix(peer, "::ffff:")))
	}
}

// TestPublishAuto: what the guest listens on is published while it does.
func TestPublishAuto(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, guest := newPublished(t, l, "-p", "*:auto:8000-8099,~8001", "-p", "9000:8002")
	serveEchoes(t, guest, 8001, 8002)
	server := serveName(t, guest, "tcp", ":8000", "late")
	awaitCall(t, l.Outside, "tcp", join(lab.Host4, 8000), "late "+lab.Outside4)
	awaitCall(t, l.Outside, "udp", join(lab.Host4, 8002), "8002 "+lab.Outside4)
	wantCall(t, l.Host, "tcp", "127.0.0.1:9000", "8002 "+gateway4)
	wantNobody(t, l.Outside, "tcp", join(lab.Host4, 8001))
	server.Close()
	lab.Eventually(t, "the port is free", func() bool { return canBind(l.Host, "tcp", 8000) })
}

// TestPublishAutoLater: an automatic rule that was added while the guest runs
// publishes what listens already, and takes it all back with it.
func TestPublishAutoLater(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	guest := networkOf(t, l, w.shell)
	serveEchoes(t, guest, 8000, 8001)
	wantContains(t, "publish", w.ctl("publish", "*:auto:8000-8099/tcp,udp"), "1   tcp", "2   udp", "*:auto:8000-8099", "following")
	awaitCall(t, l.Outside, "tcp", join(lab.Host4, 8000), "8000 "+lab.Outside4)
	awaitCall(t, l.Outside, "udp", join(lab.Host4, 8001), "8001 "+lab.Outside4)
	wantContains(t, "ports", w.ctl("ports"), "*:8000", "open, by rule 1", "*:8001", "open, by rule 2")
	w.ctl("unpublish", "1", "2")
	wantNobody(t, l.Outside, "tcp", join(lab.Host4, 8000))
	if answer, _ := w.ask("GET", "/v1/rules", ""); fmt.Sprint(answer["rules"]) != "[]" {
		t.Errorf("left: got %v, want nothing", answer)
	}
}

// TestReach: the guest reaches what was opened to it of the host's loopback, at
// its own, and nothing else.
func TestReach(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	lab.Need(t, lab.IPv6)
	_, guest := newPublished(t, l, "--reach=7001", "--reach=7002:80", "--reach=7003/udp")
	serveName(t, l.Host, "tcp", "127.0.0.1:7001", "one")
	serveName(t, l.Host, "tcp", "[::1]:7002", "two")
	serveName(t, l.Host, "udp4", "127.0.0.1:7003", "three")
	serveName(t, l.Host, "tcp", "127.0.0.1:7004", "closed")
	wantCall(t, guest, "tcp", "127.0.0.1:7001", "one 127.0.0.1")
	wantCall(t, guest, "tcp", "[::1]:7001", "one 127.0.0.1")
	wantCall(t, guest, "tcp", "127.0.0.1:80", "two ::1")
	wantCall(t, guest, "udp", "127.0.0.1:7003", "three 127.0.0.1")
	for _, address := range []string{"127.0.0.1:7004", join(gateway4, 7001), join(guest4, 7001)} {
		wantNobody(t, guest, "tcp", address)
	}
}

// TestHairpin: a guest reaches its own published ports at the host's address,
// and no other port of it.
func TestHairpin(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		lab.Need(t, lab.IPv6)
		serveEchoes(t, l.Host, 7000)
		_, guest := newPublished(t, l, append(slices.Clone(options), "-p", "*:8080:80/tcp,udp", "-p", "8081:80")...)
		serveEchoes(t, guest, 80)
		for _, f := range families {
			for _, network := range []string{"tcp", "udp"} {
				wantCall(t, guest, network, join(f.host, 8080), "80 "+f.gateway)
			}
			wantNobody(t, guest, "tcp", join(f.host, 7000))
			wantNobody(t, guest, "udp", join(f.host, 7000))
			wantNobody(t, guest, "tcp", join(f.host, 8081))
			wantNobody(t, guest, "tcp", join(f.gateway, 8080)) // loopback is never opened by that
		}
	})
}

// TestHairpinEnds: when a rule is gone, who has its port next is not the
// guest's, not even for those who were talking.
func TestHairpinEnds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	guest := networkOf(t, l, w.shell)
	serveName(t, guest, "udp4", ":80", "guest")
	wantNobody(t, guest, "udp", join(lab.Host4, 8080))
	w.ctl("publish", "*:8080:80/tcp,udp")
	c, err := guest.Dial(t.Context(), "udp", join(lab.Host4, 8080))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() string {
		c.SetDeadline(time.Now().Add(nobodyLimit))
		b := make([]byte, 100)
		n, err := c.Write([]byte("?"))
		if err == nil {
			n, err = c.Read(b)
		}
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	lab.Eventually(t, "the guest answers itself", func() bool { return ask() == "guest "+gateway4 })
	w.ctl("unpublish", "1")
	w.ctl("unpublish", "2")
	serveName(t, l.Host, "udp4", ":8080", "another")
	serveName(t, l.Host, "tcp", ":8080", "another")
	lab.Eventually(t, "nobody answers", func() bool { return ask() == "" })
	wantNobody(t, guest, "tcp", join(lab.Host4, 8080))
}

// TestPublishUnix leads between ports and Unix sockets of both sides. The guest
// has a file system of its own, in which a link leads to where the host has
// something else.
func TestPublishUnix(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		dir := tmpDir(l)
		host := func(name string) string { return filepath.Join(dir, name) }
		s, guest := newPublished(t, l, append(slices.Clone(options),
			"-p", "unix:"+host("web.sock")+":80", "-p", "unix:"+host("in.sock")+":unix:/mnt/link/server.sock",
			"-p", "8080:unix:/mnt/server.sock", "-p", "8081:unix:/mnt/stolen",
			"--reach=unix:"+host("server.sock")+":5432", "--reach=unix:"+host("server.sock")+":unix:"+host("out.sock"))...)
		s.must("mount -t tmpfs none /mnt && mkdir /mnt/real && ln -s /mnt/real /mnt/link && ln -s " + host("server.sock") + " /mnt/stolen && mount -t tmpfs none " + dir)
		serveName(t, guest, "tcp", ":80", "guest")
		for _, path := range []string{"/mnt/real/server.sock", "/mnt/server.sock"} {
			s.must(program(l, "unixserver", path, "'inner socket'") + " >/dev/null 2>&1 &")
			lab.Eventually(t, path, func() bool { _, status := s.do("test -S " + path); return status == 0 })
		}
		go answerUnix(l.Host.Listen("unix", host("server.sock")), "host's socket")
		if err := os.Chmod(host("server.sock"), 0o777); err != nil { // the listener is another user's
			t.Fatal(err)
		}

		wantCall(t, l.Host, "unix", host("web.sock"), "guest "+gateway4)
		wantCall(t, l.Host, "unix", host("in.sock"), "inner socket")
		wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "inner socket")
		wantNobody(t, l.Host, "tcp", "127.0.0.1:8081")
		wantCall(t, guest, "tcp", "127.0.0.1:5432", "host's socket")
		wantCall(t, l.Host, "unix", host("out.sock"), "host's socket")
		if err := s.in.Close(); err != nil { // the shell ends, and taproot with it
			t.Fatal(err)
		}
		s.Wait()
		for _, name := range []string{"web.sock", "in.sock", "out.sock"} {
			if _, err := os.Lstat(host(name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: got %v, want it removed", name, err)
			}
		}
	})
}

// TestPublishUnixEngineKilled: another engine serves the same sockets, and is
// connected to those of the guest.
func TestPublishUnixEngineKilled(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	path := filepath.Join(tmpDir(l), "web.sock")
	s, guest := newPublished(t, l, "-p", "unix:"+path+":80", "-p", "8080:unix:/mnt/server.sock")
	serveName(t, guest, "tcp", ":80", "guest")
	s.must("mount -t tmpfs none /mnt")
	s.must(program(l, "unixserver", "/mnt/server.sock", "'inner socket'") + " >/dev/null 2>&1 &")
	awaitCall(t, l.Host, "tcp", "127.0.0.1:8080", "inner socket")
	old := process(t, l, engineName)
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.Eventually("another engine", func() bool { return process(t, l, engineName).PID != old.PID })
	awaitCall(t, l.Host, "unix", path, "guest "+gateway4)
	awaitCall(t, l.Host, "tcp", "127.0.0.1:8080", "inner socket")
	if err := s.in.Close(); err != nil { // the shell ends, and the socket with it
		t.Fatal(err)
	}
	s.Wait()
}

// TestPublishAttached publishes ports of a namespace that exists, whose process
// has files of its own.
func TestPublishAttached(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	server := program(h.Lab, "unixserver", "/mnt/server.sock")
	c := h.hold(h.command("unshare", "--user", "--map-root-user", "--net", "--mount",
		"sh", "-c", "mount -t tmpfs none /mnt && { "+server+" 'inner socket' </dev/null & } && exec cat"))
	ready, w := pipe(t)
	a := h.command(h.TaprootPath(), "attach", "--ready-fd=3", "-p", "8080:80", "-p", "8081:unix:/mnt/server.sock", "--reach=7001", c.pid)
	a.ExtraFiles = []*os.File{w}
	a.Env = append(a.Env, "XDG_RUNTIME_DIR="+runtimeDir(h.Lab))
	a.MustStart()
	w.Close()
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		t.Fatalf("not ready: %v: %s", err, a.Err())
	}
	serveName(t, c.Namespace, "tcp", ":80", "guest")
	serveName(t, h.Host, "tcp", "127.0.0.1:7001", "host")
	wantCall(t, h.Host, "tcp", "127.0.0.1:8080", "guest "+gateway4)
	awaitCall(t, h.Host, "tcp", "127.0.0.1:8081", "inner socket")
	if err := syscall.Kill(process(t, h.Lab, server).PID, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	wantNobody(t, h.Host, "tcp", "127.0.0.1:8081")
	wantCall(t, c.Namespace, "tcp", "127.0.0.1:7001", "host 127.0.0.1")
	if err := a.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	a.Wait()
	if !canBind(h.Host, "tcp", 8080) {
		t.Error("after the end: the port is taken")
	}
}

// unixServerProgram PATH TEXT answers with a text on a Unix socket.
func unixServerProgram(args []string) int {
	listener, err := net.Listen("unix", args[0])
	if err != nil {
		return quit(err)
	}
	answerUnix(listener, args[1])
	return 0
}

// answerUnix answers with a text until the listener is closed.
func answerUnix(listener net.Listener, text string) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := c.Read(make([]byte, 1)); err == nil {
				c.Write([]byte(text))
			}
		}()
	}
}
