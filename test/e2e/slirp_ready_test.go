package e2e

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSlirpReady: when the byte is there, so is everything else.
func TestSlirpReady(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		to := s.target(t)
		h := s.run(t, "--enable-sandbox", "--enable-seccomp", "--api-socket="+api, "--configure", to.pid(), "tap0")
		// No waiting from here on: callers do not wait either.
		if l := to.link(t); !l.Up || len(l.Addresses) == 0 || len(l.Routes) == 0 {
			t.Errorf("interface when ready: got %+v, want all of it", l)
		}
		if got := s.ask(t, api, `{"execute":"list_hostfwd"}`); !strings.Contains(got, `"entries":[]`) {
			t.Errorf("API when ready: got %q, want an empty list", got)
		}
		listener := s.Host.Listen("tcp", "127.0.0.1:0")
		if got := to.connect(t, gateway4, listener.Addr()); got != "connected" {
			t.Errorf("connect when ready: got %s, want connected", got)
		}
		h.stop(t)
	})
}

// TestSlirpNotReady: a failure closes the descriptor without the byte.
func TestSlirpNotReady(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		tests := []struct {
			name string
			args []string
		}{
			{"target of nobody", []string{"--configure", "2147483647", "tap0"}},
			{"path of nothing", []string{"--configure", "--netns-type=path", "/nonexistent", "tap0"}},
			{"name taken", []string{"--configure", to.pid(), "lo"}},
			{"api socket nowhere", []string{"--api-socket=/nonexistent/api", to.pid(), "tap0"}},
			{"api socket path too long", []string{"--api-socket=" + s.session.RuntimeDir + "/" + strings.Repeat("x", 93), to.pid(), "tap0"}},
			{"option", []string{"--cidr=10.0.2.0/26", to.pid(), "tap0"}},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				h := s.with(t).start(t, tt.args...)
				wantText(t, "ready descriptor", h.said(t), "")
				if got := h.Status(); got != 1 {
					t.Errorf("status: got %d, want 1: %s", got, h.Err())
				}
			})
		}
	})
}

// TestSlirpOtherDescriptors: no number is better than another, and one that is
// not open is ignored, or else taken for one that has hung up.
func TestSlirpOtherDescriptors(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		// podman 4.3 numbers them so, podman 4.4 the other way round.
		t.Run("exchanged", func(t *testing.T) {
			s := s.with(t)
			c := s.command("-c", "-e", "3", "-r", "4", to.pid(), "tap0")
			exitOut, exit := pipe(t)
			ready, readyIn := pipe(t)
			c.ExtraFiles = []*os.File{exitOut, readyIn}
			c.MustStart()
			exitOut.Close()
			readyIn.Close()
			h := &helper{c, ready, exit}
			h.wantReady(t)
			h.stop(t)
		})
		t.Run("bad ready descriptor", func(t *testing.T) {
			s := s.with(t)
			c := s.command("-c", "-r", "9", "-e", "3", to.pid(), "tap1")
			exitOut, exit := pipe(t)
			c.ExtraFiles = []*os.File{exitOut}
			c.MustStart()
			exitOut.Close()
			s.Eventually("the interface is there", func() bool { return len(to.net.Links()) == 1 })
			(&helper{Cmd: c, exit: exit}).stop(t)
		})
		t.Run("bad exit descriptor", func(t *testing.T) {
			s := s.with(t)
			c := s.command("-c", "-r", "3", "-e", "9", to.pid(), "tap2")
			ready, readyIn := pipe(t)
			c.ExtraFiles = []*os.File{readyIn}
			c.MustStart()
			readyIn.Close()
			h := &helper{Cmd: c, ready: ready}
			h.wantReady(t)
			if got := h.Status(); got != 0 {
				t.Errorf("status: got %d, want 0", got)
			}
		})
	})
}

// TestSlirpExit: hanging up ends the program, with status 0 and without a
// trace. What is written to the pipe does not.
func TestSlirpExit(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		to := s.target(t)
		h := s.attach(t, to, "--api-socket="+api)
		if _, err := h.exit.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		// It has seen the byte, if it looks at it, before this answer.
		s.ask(t, api, `{"execute":"list_hostfwd"}`)
		select {
		case <-h.Done():
			t.Fatalf("ended by a byte on the exit descriptor: %s", h.Err())
		default:
		}
		h.stop(t)
		if s.exists(api) {
			t.Error("the API socket is still there")
		}
		wantContains(t, "standard error", h.Err(), "exitfd event\n", "do_slirp is exiting\n")
		s.Eventually("the interface is gone", func() bool { return len(to.net.Links()) == 0 })
	})
}

// TestSlirpExitFile: a regular file never hangs up.
func TestSlirpExitFile(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		c := s.command("-c", "-r", "3", "-e", "4", "--api-socket="+api, s.target(t).pid(), "tap0")
		file, err := os.Open("/etc/hosts")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		ready, readyIn := pipe(t)
		c.ExtraFiles = []*os.File{readyIn, file}
		c.MustStart()
		readyIn.Close()
		h := &helper{Cmd: c, ready: ready}
		h.wantReady(t)
		s.ask(t, api, `{"execute":"list_hostfwd"}`)
		select {
		case <-h.Done():
			t.Errorf("ended: %s", h.Err())
		default:
		}
		h.Signal(syscall.SIGTERM)
		h.Status()
	})
}

// TestSlirpSignals: they end the program as they end any other. The original
// leaves its socket behind then.
func TestSlirpSignals(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGKILL} {
			t.Run(unix.SignalName(signal), func(t *testing.T) {
				s := s.with(t)
				api := s.apiPath()
				to := s.target(t)
				h := s.attach(t, to, "--api-socket="+api)
				listen := s.forward(t, api, "tcp", "127.0.0.1:8080", "10.0.2.100:80")
				h.Signal(signal)
				if got, want := h.Status(), 128+int(signal); got != want {
					t.Errorf("status: got %d, want %d", got, want)
				}
				if left := s.exists(api); left && !s.original && signal != syscall.SIGKILL {
					t.Error("the API socket is still there")
				}
				s.wantFree(t, listen)
				s.Eventually("the interface is gone", func() bool { return len(to.net.Links()) == 0 })
				// What is left does not keep the next one from starting.
				s.attach(t, to, "--api-socket="+api).stop(t)
			})
		}
	})
}

// TestSlirpStays: the process that was started is the one that stays, and it
// stays as long as somebody holds the namespace, whatever becomes of the one
// whose id it was given.
func TestSlirpStays(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		h := s.attach(t, to)
		other := s.session.Command("nsenter", "--user="+to.user(), "--net="+to.network(), "--preserve-credentials", "sh", "-c", "echo ready && exec cat")
		end, err := other.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer end.Close()
		other.MustStart()
		s.Eventually("another process holds the namespace", func() bool { return other.Out() == "ready\n" })
		to.end.Close()
		to.Status()
		listener := s.Host.Listen("tcp", "127.0.0.1:0")
		if got := to.connect(t, gateway4, listener.Addr()); got != "connected" {
			t.Errorf("connect after the death of the target: got %s, want connected", got)
		}
		h.stop(t)
	})
}

// TestSlirpLeaves: ours leaves when the namespace is gone, so that ports are
// free at once. The original stays until it is killed.
func TestSlirpLeaves(t *testing.T) {
	t.Parallel()
	ourSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		to := s.target(t)
		h := s.attach(t, to, "--api-socket="+api)
		listen := s.forward(t, api, "tcp", "127.0.0.1:8080", "10.0.2.100:80")
		// The test's own hold on the namespace would keep it.
		to.net.Release()
		to.end.Close()
		to.Status()
		gone := time.Now()
		s.wantFree(t, listen)
		t.Logf("port free after %v", time.Since(gone))
		if got := h.Status(); got != 0 {
			t.Errorf("status: got %d, want 0: %s", got, h.Err())
		}
		if s.exists(api) {
			t.Error("the API socket is still there")
		}
	})
}

// TestSlirpTargetDies: a target that dies at any moment of the start is an
// error like any other, or is noticed later; nothing hangs and nothing is left.
func TestSlirpTargetDies(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		for i := range 20 {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				s := s.with(t)
				to := s.target(t)
				to.net.Release()
				h := s.start(t, "--configure", to.pid(), "tap0")
				// A start takes a few milliseconds: each round dies later.
				timer := time.AfterFunc(time.Duration(i)*time.Millisecond, func() { to.Process.Kill() })
				defer timer.Stop()
				said := h.said(t)
				to.Status()
				h.exit.Close()
				if status := h.Status(); said == "1" && status != 0 || said == "" && status != 1 {
					t.Errorf("got %q on the ready descriptor and status %d, want \"1\" and 0, or \"\" and 1: %s", said, status, h.Err())
				}
			})
		}
	})
}

// TestSlirpForeign: the namespaces of another user are not for us.
func TestSlirpForeign(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		// Root of the host, as the ordinary user sees it.
		foreign := s.Host.Command("unshare", "--net", "sh", "-c", "echo ready && exec cat")
		end, err := foreign.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer end.Close()
		foreign.MustStart()
		s.Eventually("the namespace is there", func() bool { return foreign.Out() == "ready\n" })
		h := s.start(t, "--configure", strconv.Itoa(foreign.Process.Pid), "tap0")
		wantText(t, "ready descriptor", h.said(t), "")
		if got := h.Status(); got != 1 {
			t.Errorf("status: got %d, want 1", got)
		}
		if h.Err() == "" {
			t.Error("standard error: got nothing, want the reason")
		}
	})
}

// TestSlirpByRoot: root may join the namespaces of everybody.
func TestSlirpByRoot(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		to := s.target(t)
		c := s.Host.Command(s.path, "-c", "--enable-sandbox", "-r", "3", "-e", "4", to.pid(), "tap0")
		ready, readyIn := pipe(t)
		exitOut, exit := pipe(t)
		c.ExtraFiles = []*os.File{readyIn, exitOut}
		c.MustStart()
		readyIn.Close()
		exitOut.Close()
		h := &helper{c, ready, exit}
		h.wantReady(t)
		wantText(t, "address", strings.Join(to.link(t).Addresses, " "), guest4+"/24")
		h.stop(t)
	})
}

// exists tells whether the host has a file of that name.
func (s slirp) exists(path string) bool {
	err := s.Host.Do(func() error {
		_, err := os.Lstat(path)
		return err
	})
	return err == nil
}
