package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// newOdd starts an instance whose engines, if they are made of the test's own program,
// have a habit. It returns the path of that program.
func newOdd(t *testing.T, l *lab.Lab, habit string, options ...string) (w *web, odd string) {
	t.Helper()
	c := guest(l, append(options, "--name=web"), "sh")
	c.Env = append(c.Env, habitVariable+"="+habit)
	return newWebOf(l, startShell(t, c)), copied(t, l, l.ProgramArgs("")[0])
}

// engine returns what an instance says of its engine.
func (w *web) engine() map[string]any {
	w.t.Helper()
	info, _ := w.ask("GET", "/v1/info", "")
	return info["engine"].(map[string]any)
}

// rolledBack returns which program has failed, as an instance says, "" if none has.
func (w *web) rolledBack() string {
	w.t.Helper()
	story, _ := w.engine()["rolled_back"].(string)
	return story
}

// TestRollBack replaces the engine by a program that does not last: the one of before is
// back then, the device and the ports are the same, connections of before are reset, and
// it is told. What such a program dies of first may be the connections that it was handed.
func TestRollBack(t *testing.T) {
	t.Parallel()
	for habit, tt := range map[string]struct {
		status    int
		said, why string
	}{
		diesAtOnce: {125, "the other engine has taken over and ended: engine: exit status 3", "exit status 4"},
		diesSoon:   {0, "", "exit status 4"},
	} {
		t.Run(habit, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			w, odd, guest, conversations := converseBeforeOdd(t, l, habit)
			links := guest.Links()
			events := taproot(l, "ctl", "web", "events").MustStart()
			l.Eventually("events are told", func() bool { return strings.Contains(events.Out(), "start") })
			c := taproot(l, "ctl", "web", "restart", "--binary="+odd)
			if got := c.MustStart().Status(); got != tt.status || !strings.Contains(c.Err(), tt.said) {
				t.Errorf("restart: got status %d and %q, want %d and %q", got, c.Err(), tt.status, tt.said)
			}
			l.Eventually("it is rolled back", func() bool { return w.rolledBack() != "" })
			wantText(t, "rolled back", w.rolledBack(), odd+": "+tt.why)
			wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
			for _, c := range conversations {
				c.wantReset(t)
			}
			wantSameLinks(t, guest, links)
			if e := w.engine(); e["binary"] != nil || e["state"] != "running" {
				t.Errorf("engine: got %v, want one of the program of before", e)
			}
			l.Eventually("it is told", func() bool { return strings.Contains(events.Out(), "engine-rolled-back") })
		})
	}
}

// converseBeforeOdd is newOdd with ports that are published, where the guest has
// connections of all kinds by the shortcut and answers at port 81.
func converseBeforeOdd(t *testing.T, l *lab.Lab, habit string) (w *web, odd string, guest *lab.Namespace, all []conversation) {
	t.Helper()
	lab.Need(t, lab.IPv6)
	needTProxy(t, l)
	w, odd = newOdd(t, l, habit, "--shortcut=on", "-p", "*:8080:80", "-p", "8081:81")
	guest = networkOf(t, l, w.shell)
	serveEchoes(t, guest, 81)
	return w, odd, guest, converse(t, l, guest)
}

// TestRestartSilent: what does not say that it is an engine, or that it is ready, takes
// nothing away. For the latter it has half a minute, so that is for TAPROOT_SLOW=1.
func TestRestartSilent(t *testing.T) {
	t.Parallel()
	tests := map[string]string{dumb: "it is no engine", neverReady: "no sign of life for 30s"}
	if os.Getenv("TAPROOT_SLOW") == "" {
		delete(tests, neverReady)
	}
	for habit, want := range tests {
		t.Run(habit, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			w, odd := newOdd(t, l, habit)
			guest, outside := networkOf(t, l, w.shell), l.Outside.Listen("tcp", ":0")
			old := process(t, l, engineName)
			c := conversation{name: "outbound"}
			c.ends[0], c.ends[1] = open(t, guest, join(lab.Outside4, port(outside.Addr())), outside)
			r := taproot(l, "ctl", "web", "restart", "--binary="+odd).MustStart()
			if got := r.Status(); got != 125 || !strings.Contains(r.Err(), "the engine stays as it is: ") || !strings.Contains(r.Err(), want) {
				t.Errorf("restart: got status %d and %q, want 125 and %q", got, r.Err(), want)
			}
			c.wantAlive(t)
			if now := process(t, l, engineName); now.PID != old.PID {
				t.Errorf("engine: got %v, want %v", now, old)
			}
		})
	}
}

// TestRestartOtherWords replaces the engine by builds that do not know how connections
// are handed over, or do it otherwise: all are reset, and nobody waits.
func TestRestartOtherWords(t *testing.T) {
	t.Parallel()
	for _, habit := range []string{noHandover, otherWords} {
		t.Run(habit, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			w, odd, _, conversations := converseBeforeOdd(t, l, habit)
			w.ctl("restart", "--binary="+odd)
			for _, c := range conversations {
				c.wantReset(t)
			}
			w.ctl("restart", "--binary="+copied(t, l, l.TaprootPath())) // from there on there is a network again
			wantCall(t, l.Host, "tcp", "127.0.0.1:8081", "81 "+gateway4)
			if e := w.engine(); e["rolled_back"] != nil || e["restarts"] != 2.0 {
				t.Errorf("engine: got %v, want 2 restarts, and none rolled back", e)
			}
		})
	}
}

// TestStalledHeir does what a guest can that has taken an engine over, and kept copies
// of the sockets that this has handed over: it has splice(2) wait in the next engine,
// which is killed for its silence. That must not bring back the program with the hole.
func TestStalledHeir(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	needTProxy(t, l)
	w := newWeb(t, l, "--shortcut=on")
	guest, outside := networkOf(t, l, w.shell), l.Outside.Listen("tcp", ":0")
	client, server := open(t, guest, join(lab.Outside4, port(outside.Addr())), outside)
	next := copied(t, l, l.TaprootPath())
	w.ctl("restart", "--binary="+next)
	heir := process(t, l, engineName)
	c := conversation{name: "inherited", ends: [2]net.Conn{client, server}}
	c.wantAlive(t)
	if n := makeBlocking(t, heir.PID, server.LocalAddr().String()); n == 0 {
		t.Fatal("the engine has no socket that leads to the server")
	}
	go client.Write(make([]byte, 64<<20)) // which nobody reads; ends with client
	client.SetWriteDeadline(time.Now().Add(lab.Patience))
	l.Eventually("another engine", func() bool { return process(t, l, engineName).PID != heir.PID })
	l.Eventually("it runs", func() bool { return w.engine()["state"] == "running" })
	e := w.engine()
	if e["binary"] != next || e["rolled_back"] != nil {
		t.Errorf("engine: got %v, want still one of %s", e, next)
	}
	wantContains(t, "why", fmt.Sprint(e["why"]), "no sign of life")
	again, _ := open(t, guest, join(lab.Outside4, port(outside.Addr())), outside)
	again.Close()
}

// makeBlocking takes copies of a process's sockets that lead to an address, as whoever
// was given them could have kept some, and has who uses them wait. It returns how many.
func makeBlocking(t *testing.T, pid int, to string) (n int) {
	t.Helper()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	for fd := range 256 {
		own, err := unix.PidfdGetfd(pidfd, fd, 0)
		if err == unix.EPERM {
			t.Skip("pidfd_getfd: this machine keeps the engine's sockets from root of the laboratory")
		}
		if err != nil {
			continue
		}
		if peer, err := unix.Getpeername(own); err == nil && addrPort(peer).String() == to {
			t.Cleanup(func() { unix.Close(own) })
			if err := unix.SetNonblock(own, false); err != nil {
				t.Fatal(err)
			}
			n++
			continue
		}
		unix.Close(own)
	}
	return n
}
