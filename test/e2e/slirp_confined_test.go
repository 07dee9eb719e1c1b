package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"taproot/test/lab"
)

// TestSlirpConfined: --enable-sandbox and --enable-seccomp are kept by the
// process that reads what the guest sends.
func TestSlirpConfined(t *testing.T) {
	t.Parallel()
	eachSlirp(t, func(t *testing.T, s slirp) {
		h := s.attach(t, s.target(t), "--enable-sandbox", "--enable-seccomp")
		status := s.reader(t, h)
		wantContains(t, "status", status, "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapAmb:\t0000000000000000\n")
		// 1<<10 is CAP_NET_BIND_SERVICE, which it may keep (capabilities(7)).
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd"} {
			none, bind := set+":\t0000000000000000\n", set+":\t0000000000000400\n"
			if !strings.Contains(status, none) && !strings.Contains(status, bind) && !s.harmless(set) {
				t.Errorf("status: got %q, want %s to be empty, or CAP_NET_BIND_SERVICE", status, set)
			}
		}
		h.stop(t)
	})
}

// harmless reports whether a set of capabilities may be anything: the bounding
// set alone gives nothing to a process that gets no new privileges.
func (s slirp) harmless(set string) bool { return set == "CapBnd" && !s.original }

// reader is what proc(5) says of the process that reads frames.
func (s slirp) reader(t *testing.T, h *helper) string {
	t.Helper()
	pid := h.Process.Pid
	if !s.original {
		s.Eventually("the engine is there", func() bool {
			for _, p := range lab.Below(h.Process.Pid) {
				if strings.HasPrefix(p.Args, engineName) {
					pid = p.PID
				}
			}
			return pid != h.Process.Pid
		})
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSlirpConfinedResolver: the host's resolv.conf is followed all the same.
func TestSlirpConfinedResolver(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "dig")
	eachSlirp(t, func(t *testing.T, s slirp) { s.wantFollowed(t, "--enable-sandbox", "--enable-seccomp") })
}

// TestSlirpSocketMode: who may use the API socket is for the caller's umask to
// say.
func TestSlirpSocketMode(t *testing.T) {
	t.Parallel()
	tests := []struct {
		umask string
		want  os.FileMode
	}{
		{"022", 0o755},
		{"027", 0o750},
		{"077", 0o700},
	}
	eachSlirp(t, func(t *testing.T, s slirp) {
		api := s.apiPath()
		for _, tt := range tests {
			to := s.target(t)
			c := s.session.Command("sh", "-c", "umask "+tt.umask+` && exec "$@"`, "sh", s.path,
				"-r", "3", "-e", "4", "--api-socket="+api, to.pid(), "tap0")
			ready, readyIn := pipe(t)
			exitOut, exit := pipe(t)
			c.ExtraFiles = []*os.File{readyIn, exitOut}
			c.MustStart()
			readyIn.Close()
			exitOut.Close()
			h := &helper{c, ready, exit}
			h.wantReady(t)
			var got os.FileMode
			err := s.Host.Do(func() error {
				info, err := os.Lstat(api)
				if err == nil {
					got = info.Mode().Perm()
				}
				return err
			})
			if err != nil || got != tt.want {
				t.Errorf("mode of the socket with umask %s: got %v (%v), want %v", tt.umask, got, err, tt.want)
			}
			h.stop(t)
		}
	})
}

// TestSlirpFirstWord: the name may also be taproot's first argument.
func TestSlirpFirstWord(t *testing.T) {
	t.Parallel()
	ourSlirp(t, func(t *testing.T, s slirp) {
		got := s.session.Command(s.TaprootPath(), "slirp4netns", "--version").MustRun()
		wantText(t, "version", got, strings.TrimSpace(s.command("--version").MustRun()))
	})
}
