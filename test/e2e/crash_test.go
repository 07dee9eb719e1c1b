package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// A conversation is a connection whose two ends the test holds.
type conversation struct {
	name string
	ends [2]net.Conn // the guest's first
}

// open makes a connection between a listener and whoever reaches it so. A byte has
// gone through it.
func open(t *testing.T, from *lab.Namespace, address string, at net.Listener) (client, server net.Conn) {
	t.Helper()
	client = dialPublished(t, from, address)
	server, err := at.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	server.SetDeadline(time.Now().Add(lab.Patience))
	if _, err := client.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	wantByte(t, server)
	return client, server
}

// converse makes a connection each way and family. Port 8080 of the host leads to
// port 80 of the guest.
func converse(t *testing.T, l *lab.Lab, guest *lab.Namespace) []conversation {
	t.Helper()
	outside, inside := l.Outside.Listen("tcp", ":0"), guest.Listen("tcp", ":80")
	defer outside.Close()
	defer inside.Close()
	var all []conversation
	for _, f := range families {
		out := conversation{name: "outbound " + f.name}
		out.ends[0], out.ends[1] = open(t, guest, join(f.outside, port(outside.Addr())), outside)
		in := conversation{name: "inbound " + f.name}
		in.ends[1], in.ends[0] = open(t, l.Outside, join(f.host, 8080), inside)
		all = append(all, out, in)
	}
	return all
}

// wantReset wants each end of a conversation to hear that it is over, and not of an
// end in order.
func (c *conversation) wantReset(t *testing.T) {
	t.Helper()
	for i, end := range c.ends {
		end.SetDeadline(time.Now().Add(lab.Patience))
		if _, err := end.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s, %s end: got %v, want a reset", c.name, [2]string{"the guest's", "the other"}[i], err)
		}
	}
}

// wantAlive wants what each end of a conversation says to reach the other.
func (c *conversation) wantAlive(t *testing.T) {
	t.Helper()
	for i, end := range c.ends {
		to := c.ends[1-i]
		to.SetDeadline(time.Now().Add(lab.Patience))
		if _, err := end.Write([]byte("x")); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		wantByte(t, to)
	}
}

// crashes are the ways in which an engine dies, and what is said of each.
func crashes() map[string]struct {
	crash func(pid int) error
	why   string
} {
	by := func(s syscall.Signal) func(int) error {
		return func(pid int) error { return syscall.Kill(pid, s) }
	}
	return map[string]struct {
		crash func(pid int) error
		why   string
	}{
		"killed":  {by(syscall.SIGKILL), "signal: killed"},
		"fault":   {by(syscall.SIGSEGV), "exit status 2"},
		"stopped": {by(syscall.SIGSTOP), "no sign of life for 6s"},
		starved:   {starve, "exit status 2"},
	}
}

// starved is the name of the death for which it must also be given something to do.
const starved = "out of memory"

// starve lets a process have no more memory than it has.
func starve(pid int) error {
	return unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: 0, Max: 0}, nil)
}

// TestCrash has the engine die in each way while connections are open: these are
// reset, and others work, by the same device and the same ports.
func TestCrash(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		lab.Need(t, lab.IPv6)
		for name, tt := range crashes() {
			if name == starved && slices.Contains(options, "--shortcut=on") {
				continue // where it needs hardly any
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				w := newWeb(t, l, append(slices.Clone(options), "-p", "*:8080:80", "-p", "*:8081:81")...)
				guest := networkOf(t, l, w.shell)
				serveEchoes(t, guest, 81)
				wantCall(t, l.Outside, "tcp", join(lab.Host4, 8081), "81 "+lab.Outside4)
				before, old := guest.Links(), process(t, l, engineName)
				conversations := converse(t, l, guest)
				if err := tt.crash(old.PID); err != nil {
					t.Fatal(err)
				}
				if name == starved {
					occupy(t, l, guest)
				}
				begun := time.Now()
				l.Eventually("another engine", func() bool { return process(t, l, engineName).PID != old.PID })
				born := time.Now()
				wantCall(t, l.Outside, "tcp", join(lab.Host4, 8081), "81 "+lab.Outside4)
				wantCall(t, l.Outside, "tcp", join(lab.Host6, 8081), "81 "+lab.Outside6)
				t.Logf("another engine after %v, new connections %v after that", born.Sub(begun), time.Since(born))
				for _, c := range conversations {
					c.wantReset(t)
				}
				wantSameLinks(t, guest, before)
				info, _ := w.ask("GET", "/v1/info", "")
				if e := info["engine"].(map[string]any); e["restarts"] != 1.0 || e["state"] != "running" || !strings.Contains(fmt.Sprint(e["why"]), tt.why) {
					t.Errorf("engine: got %v, want %q", e, tt.why)
				}
			})
		}
	})
}

// wantSameLinks wants the interfaces of a namespace as they were, but for addresses
// that may be used by now.
func wantSameLinks(t *testing.T, n *lab.Namespace, want []lab.Link) {
	t.Helper()
	text := func(links []lab.Link) string {
		for i := range links {
			links[i].Tentative, links[i].Silent = nil, false
		}
		return fmt.Sprint(links)
	}
	if got, want := text(n.Links()), text(want); got != want {
		t.Errorf("links: got %s, want %s", got, want)
	}
}

// occupy opens connections from the guest until the engine needs more memory than it
// has.
func occupy(t *testing.T, l *lab.Lab, guest *lab.Namespace) {
	t.Helper()
	old := process(t, l, engineName).PID
	address := join(lab.Outside4, serveTCP(t, l.Outside, func(c *net.TCPConn) { c.Read(make([]byte, 1)) }))
	l.Eventually("it is out of memory", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c, err := guest.Dial(ctx, "tcp", address); err == nil {
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(lab.Patience))
			go c.Write(make([]byte, 1<<20)) // ends with c
		}
		return !slices.ContainsFunc(l.Processes(), func(p lab.Process) bool { return p.PID == old && p.State != 'Z' })
	})
}

// TestStopAll: when everything is stopped for a while, as by a laptop's lid or a
// debugger, nothing is started again.
func TestStopAll(t *testing.T) {
	t.Parallel()
	const longer = 7 * time.Second // than a silent engine lives
	l := newLab(t)
	s, guest := newPublished(t, l, "-p", "8080:80")
	serveEchoes(t, guest, 80)
	old := process(t, l, engineName)
	all := l.Processes()
	for _, p := range all {
		syscall.Kill(p.PID, syscall.SIGSTOP)
	}
	<-time.After(longer)
	for _, p := range all {
		syscall.Kill(p.PID, syscall.SIGCONT)
	}
	<-time.After(longer - 4*time.Second) // one beat and a half
	wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
	if got := process(t, l, engineName); got.PID != old.PID {
		t.Errorf("engine: got %v, want %v", got, old)
	}
	wantText(t, "standard error", s.Err(), "")
}

// TestGivenUp: an engine that dies again and again is given up, and it is said.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l)
	last := 0
	kill := func() (killed bool) {
		for _, p := range l.Processes() {
			if strings.HasPrefix(p.Args, engineName) && p.PID != last && p.State != 'Z' {
				last, killed = p.PID, true
				syscall.Kill(p.PID, syscall.SIGKILL)
			}
		}
		return killed
	}
	for range 11 {
		l.Eventually("another engine", kill)
	}
	l.Eventually("it is given up", func() bool {
		kill()
		info, _ := w.ask("GET", "/v1/info", "")
		return info["engine"].(map[string]any)["state"] == "gone"
	})
	info, _ := w.ask("GET", "/v1/info", "")
	if e := info["engine"].(map[string]any); e["restarts"] != 10.0 || e["why"] != "the engine died 11 times in 1m0s" {
		t.Errorf("engine: got %v", e)
	}
	l.Eventually("it is said", func() bool {
		return strings.Contains(w.Err(), "taproot: warning: the guest has no network any more: the engine died 11 times in 1m0s")
	})
	if _, status := w.ask("POST", "/v1/restart", "{}"); status != 503 {
		t.Errorf("restart: got status %d, want 503", status)
	}
	wantText(t, "the command", w.must("echo on"), "on")
}

// TestRestart replaces the engine, also by another program, while clients come all
// the time: none of them is turned away. Connections by frames are reset, others go on.
func TestRestart(t *testing.T) {
	bothWays(t, func(t *testing.T, l *lab.Lab, options []string) {
		lab.Need(t, lab.IPv6)
		w := newWeb(t, l, append(slices.Clone(options), "-p", "*:8080:80", "-p", "8081:81")...)
		guest := networkOf(t, l, w.shell)
		serveEchoes(t, guest, 81)
		other := copied(t, l, l.TaprootPath())
		for _, args := range [][]string{{"restart"}, {"restart", "--binary=" + other}, {"restart"}} {
			old := process(t, l, engineName)
			conversations := converse(t, l, guest)
			done := make(chan struct{})
			go func() {
				defer close(done)
				w.ctl(args...)
			}()
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				if got := insist(l.Host, "tcp", "127.0.0.1:8081"); got != refused { // which may be a reset
					wantText(t, "meanwhile", got, "81 "+gateway4)
				}
			}
			wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
			if now := process(t, l, engineName); now.PID == old.PID {
				t.Errorf("%v: still engine %d", args, now.PID)
			}
			for _, c := range conversations {
				if slices.Contains(options, "--shortcut=on") {
					c.wantAlive(t)
				} else {
					c.wantReset(t)
				}
			}
		}
		wantContains(t, "info", w.ctl("info"), other, "started again 3 times")
	})
}

// copied copies a program to a file of the user's, and returns its path.
func copied(t *testing.T, l *lab.Lab, program string) string {
	t.Helper()
	path := filepath.Join(l.Dir, "copy of "+filepath.Base(program))
	b, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(path, b, 0o755)
	}
	if err == nil {
		err = l.Give(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRestartInVain: what does not come up takes nothing away.
func TestRestartInVain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	w := newWeb(t, l, "-p", "8081:81")
	guest := networkOf(t, l, w.shell)
	old, outside := process(t, l, engineName), l.Outside.Listen("tcp", ":0")
	client, server := open(t, guest, join(lab.Outside4, port(outside.Addr())), outside)
	noProgram := copied(t, l, l.TaprootPath())
	if err := os.Chmod(noProgram, 0o644); err != nil {
		t.Fatal(err)
	}
	for binary, want := range map[string]string{
		noProgram:            "permission denied",
		l.ProgramArgs("")[0]: "belongs to another user", l.Dir: "not a regular file", "/nowhere": "no such file",
		copied(t, l, "/bin/true"): "the engine stays as it is: it is no engine",
	} {
		c := taproot(l, "ctl", "web", "restart", "--binary="+binary)
		if c.MustStart().Status() != 125 || !strings.Contains(c.Err(), want) {
			t.Errorf("%s: got %q, want %q in it", binary, c.Err(), want)
		}
	}
	if now := process(t, l, engineName); now.PID != old.PID {
		t.Errorf("engine: got %v, want %v", now, old)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	wantByte(t, server)
}
