package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

func TestPastaCommand(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		tests := []struct {
			name    string
			command []string
			want    int
			lacks   string
		}{
			{"success", []string{"true"}, 0, ""},
			{"failure", []string{"false"}, 1, ""},
			{"number", []string{"sh", "-c", "exit 37"}, 37, "takes -c for its own option, as there is no --"},
			{"after --", []string{"--", "sh", "-c", "exit 37"}, 37, ""},
			{"SIGKILL", []string{"--", "sh", "-c", "kill -KILL $$"}, 128 + 9, "status 0, mended in 2025"},
			{"SIGTERM", []string{"--", "sh", "-c", "kill -TERM $$"}, 128 + 15, "status 0, mended in 2025"},
			{"not found", []string{"no-such-command"}, 1, ""},
			{"no such path", []string{"/no/such/command"}, 1, ""},
			{"directory", []string{"/"}, 1, ""},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				h := h.with(t)
				if h.lacking(tt.lacks) {
					return
				}
				if got := h.pasta(append([]string{"-q"}, tt.command...)...).MustStart().Status(); got != tt.want {
					t.Errorf("status: got %d, want %d", got, tt.want)
				}
			})
		}
	})
}

// TestPastaShell runs the user's shell where there is no command, as a login
// shell.
func TestPastaShell(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		h.WriteFile(".profile", "echo hello from the profile\n")
		c := h.pasta("--config-net")
		c.Env = append(c.Env, "HOME="+h.Dir)
		c.Stdin = strings.NewReader("echo I am $(id -u); exit 5\n")
		c.MustStart()
		if got := c.Status(); got != 5 {
			t.Errorf("status: got %d, want 5", got)
		}
		wantText(t, "output", c.Out(), "hello from the profile\nI am 0")
	})
}

// TestPastaNamespaces looks at what surrounds the command.
func TestPastaNamespaces(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		lines := func(c *lab.Cmd) []string { return strings.Split(strings.TrimSpace(c.MustRun()), "\n") }
		names := []string{"user", "net", "ipc", "pid", "uts"}
		if !h.original { // It had no mount namespace yet, and so no /proc.
			names = append(names, "mnt")
		}
		script := "for n in " + strings.Join(names, " ") + "; do readlink /proc/self/ns/$n; done"
		inside := lines(h.pasta("--", "sh", "-c", script))
		for i, outside := range lines(h.command("sh", "-c", script)) {
			if inside[i] == outside {
				t.Errorf("namespace %s: got the caller's, want another", outside)
			}
		}
		got := lines(h.pasta("--config-net", "--", "sh", "-c",
			"cat /proc/self/uid_map /proc/self/setgroups /proc/sys/net/ipv4/ping_group_range | xargs -n100; id -u; pwd; ls /proc | grep -c '^[0-9]'"))
		for i, want := range []string{"0 1000 1 deny 0 0", "0", h.Dir} {
			if got[i] != want {
				t.Errorf("inside: got %q, want %q", got[i], want)
			}
		}
		if n, err := strconv.Atoi(got[3]); !h.original && (err != nil || n > 6) {
			t.Errorf("processes that the command sees: got %s, want its own", got[3])
		}
		if h.original {
			return // It sets no host name.
		}
		name := lines(h.command("uname", "-n"))[0]
		wantText(t, "host name", h.pasta("uname", "-n").MustRun(), "pasta-"+name)
		wantText(t, "host name by option", h.pasta("--hostname", "box", "uname", "-n").MustRun(), "box")
	})
}

// TestPastaReady: when the program has ended with status 0, the network is
// complete.
func TestPastaReady(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		serveName(t, h.Outside, "tcp", ":7000", "outside")
		e := h.engineer()
		byPID, byPath := h.container(), e.container()
		serveName(t, byPID.Namespace, "tcp", ":8000", "byPID")
		serveName(t, byPath.Namespace, "tcp", ":8000", "byPath")
		tests := []struct {
			name   string
			c      *container
			attach func() string
			port   int
		}{
			{"byPID", byPID, func() string { return h.attach("--config-net", "-t", "8001:8000", byPID.pid) }, 8001},
			{"byPath", byPath, func() string { return e.attach("--config-net", "-t", "8002:8000", "--netns", byPath.netns) }, 8002},
		}
		for _, tt := range tests {
			tt.attach()
			link := onlyLink(t, tt.c)
			wantSame(t, "tentative addresses", link.Tentative, nil)
			if !link.Up || !link.Multicast || link.MTU != 65520 || link.Name != lab.HostInterface {
				t.Errorf("%s: interface: got %+v, want %s up, with multicast and an MTU of 65520", tt.name, link, lab.HostInterface)
			}
			wantSame(t, "addresses", link.Addresses, []string{lab.Host4 + "/24", lab.Host6 + "/64"})
			wantSame(t, "routes", link.Routes, []string{"0.0.0.0/0 via " + lab.Router4, "::/0 via " + lab.Router6})
			for _, f := range families {
				wantCall(t, tt.c.Namespace, "tcp", join(f.outside, 7000), "outside "+f.host)
				wantCall(t, h.Outside, "tcp", join(f.host, tt.port), tt.name+" "+f.outside)
			}
		}
	})
}

func TestPastaPIDFile(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		for _, foreground := range []bool{false, true} {
			for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGQUIT} {
				c := h.container()
				path := filepath.Join(tmpDir(h.Lab), "pid")
				var inFront *lab.Cmd
				if foreground {
					inFront = h.pasta("--config-net", "-f", "-P", path, c.pid).MustStart()
					h.Eventually("the pid file", func() bool {
						text, err := os.ReadFile(path)
						return err == nil && len(text) > 0
					})
				} else {
					h.attach("--config-net", "--pid", path, c.pid)
				}
				pid := pidFile(t, path)
				if !runs(pid) {
					t.Fatalf("process %d of the pid file does not run", pid)
				}
				if foreground && pid != inFront.Process.Pid {
					t.Errorf("pid file: got %d, want %d", pid, inFront.Process.Pid)
				}
				if err := syscall.Kill(pid, signal); err != nil {
					t.Fatal(err)
				}
				h.Eventually("the process is gone", func() bool { return !runs(pid) })
				if foreground {
					if got := inFront.Status(); got != 0 {
						t.Errorf("status after %v: got %d, want 0", signal, got)
					}
				}
				h.Eventually("the interface is gone", func() bool { return len(c.Links()) == 0 })
				if err := os.Remove(path); err != nil {
					t.Errorf("the pid file was removed: %v", err)
				}
			}
		}
	})
}
