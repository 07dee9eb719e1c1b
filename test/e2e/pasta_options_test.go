package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taproot/test/lab"
)

// TestPastaVersion: what callers ask a program of this name before they use
// it.
func TestPastaVersion(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		tests := []struct {
			name   string
			args   []string
			status int
			want   string // part of the output
			lacks  string
		}{
			{"version, as podman info", []string{"--version"}, 0, "pasta ", ""},
			{"help", []string{"--help"}, 0, "--config-net", "status 1"},
			{"help, one letter", []string{"-h"}, 0, "--config-net", "status 1"},
			{"probe of rootlesskit", []string{"--host-lo-to-ns-lo", "--version"}, 0, "pasta ", "does not know the option"},
			{"known option", []string{"--config-net", "--version"}, 0, "pasta ", ""},
			{"abbreviated", []string{"--vers"}, 0, "pasta ", ""},
			{"unknown option", []string{"--xyz"}, 1, "unrecognized option '--xyz'", ""},
			{"unknown option with a value", []string{"--xyz=3"}, 1, "unrecognized option '--xyz=3'", ""},
			{"unknown option and version", []string{"--xyz", "--version"}, 1, "unrecognized option '--xyz'", ""},
			{"unknown letter", []string{"-@"}, 1, "invalid option -- '@'", ""},
			{"ambiguous", []string{"--no-", "true"}, 1, "option '--no-' is ambiguous", ""},
			{"argument missing", []string{"--mtu"}, 1, "option '--mtu' requires an argument", ""},
			{"argument missing, one letter", []string{"-t"}, 1, "option requires an argument -- 't'", ""},
			{"argument unwanted", []string{"--config-net=yes"}, 1, "option '--config-net' doesn't allow an argument", ""},
			{"an option of passt", []string{"--vhost-user", "true"}, 1, "unrecognized option '--vhost-user'", ""},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				h := h.with(t)
				if h.lacking(tt.lacks) {
					return
				}
				r := combined(t, h.pasta(tt.args...))
				if r.status != tt.status {
					t.Errorf("status: got %d, want %d", r.status, tt.status)
				}
				wantContains(t, "output", r.output, tt.want)
			})
		}
	})
}

// TestPastaBadInput: status 1 and a reason, nothing left behind, and the
// container as it was.
func TestPastaBadInput(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		c := h.container()
		other := h.container() // has its pasta already
		h.attach("--config-net", "-t", "9000", "-u", "none", "-T", "none", "-U", "none", other.pid)
		file := h.WriteFile("file", "")
		closed := filepath.Join(tmpDir(h.Lab), "no", "such", "directory")
		tests := []struct {
			name  string
			args  []string
			want  string // part of the message
			lacks string
		}{
			{"no such process", []string{"4194303"}, "4194303", "message without the number"},
			{"number too large", []string{"99999999999999999999"}, "", ""},
			{"process 0", []string{"0"}, "", ""},
			{"process of another user", []string{"1"}, "", ""},
			{"no such path", []string{"--netns", closed}, closed, ""},
			{"no namespace", []string{"--netns", file}, file, "message without the path"},
			{"a directory", []string{"--netns", "/"}, "", ""},
			{"another kind of namespace", []string{"--netns", "/proc/" + c.pid + "/ns/ipc"}, "", ""},
			{"no such name", []string{"--netns", "no-such-name"}, "no-such-name", ""},
			{"no such user namespace", []string{"--userns", closed, "--netns", "/proc/" + c.pid + "/ns/net"}, closed, ""},
			{"path and process", []string{"--netns", "/proc/" + c.pid + "/ns/net", c.pid}, "", ""},
			{"path and command", []string{"--netns", "/proc/" + c.pid + "/ns/net", "true"}, "", ""},
			{"both families only", []string{"-4", "-6", c.pid}, "", ""},
			{"pid file", []string{"--pid", closed, c.pid}, closed, "message without the path"},
			{"log file", []string{"--log-file", closed, c.pid}, "", ""},
			{"capture file", []string{"--pcap", closed, c.pid}, "", "goes on without"},
			{"interface", []string{"--interface", "nosuch0", c.pid}, "nosuch0", ""},
			{"interface name", []string{"--ns-ifname", "a-name-too-long-for-linux", c.pid}, "a-name-too-long-for-linux", ""},
			{"address", []string{"--address", "10.0.2", c.pid}, "10.0.2", ""},
			{"address of loopback", []string{"--address", "127.0.0.1", c.pid}, "127.0.0.1", ""},
			{"netmask", []string{"--address", "10.0.2.100", "--netmask", "33", c.pid}, "33", ""},
			{"netmask with holes", []string{"--address", "10.0.2.100", "--netmask", "255.0.255.0", c.pid}, "255.0.255.0", ""},
			{"gateway", []string{"--gateway", "nonsense", c.pid}, "nonsense", ""},
			{"mac", []string{"--mac-addr", "00:11", c.pid}, "00:11", ""},
			{"mac of the interface", []string{"--ns-mac-addr", "00:11", c.pid}, "00:11", ""},
			{"mtu", []string{"--mtu", "65521000", c.pid}, "65521000", ""},
			{"mtu is no number", []string{"--mtu", "big", c.pid}, "big", "takes it for 0"},
			{"dns", []string{"--dns", "nonsense", c.pid}, "nonsense", ""},
			{"dns-forward", []string{"--dns-forward", "nonsense", c.pid}, "nonsense", ""},
			{"outbound", []string{"--outbound", "nonsense", c.pid}, "nonsense", ""},
			{"map-host-loopback", []string{"--map-host-loopback", "nonsense", c.pid}, "nonsense", "does not know the option"},
			{"map-guest-addr", []string{"--map-guest-addr", "nonsense", c.pid}, "nonsense", "does not know the option"},
			{"splice", []string{"--splice-only", "--no-splice", c.pid}, "--splice-only", "does not know the options"},
			{"quiet and debug", []string{"--quiet", "--debug", c.pid}, "", ""},
			{"the same port", []string{"-t", "9000", "-u", "none", c.pid}, "9000", ""},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				h := h.with(t)
				if h.lacking(tt.lacks) {
					return
				}
				r := combined(t, h.pasta(append([]string{"--config-net"}, tt.args...)...))
				if r.status != 1 {
					t.Errorf("status: got %d, want 1; output %q", r.status, r.output)
				}
				wantContains(t, "message", r.output, tt.want)
				if r.output == "" || strings.Contains(r.output, "goroutine ") {
					t.Errorf("message: got %q, want the reason", r.output)
				}
				if links := c.Links(); !h.original && len(links) > 0 {
					t.Errorf("left behind in the container: %+v", links)
				}
			})
		}
		h.wake(other)
		serveName(t, other.Namespace, "tcp", ":9000", "other")
		wantCall(t, h.Outside, "tcp", join(lab.Host4, 9000), "other "+lab.Outside4)
	})
}

// TestPastaLogFile has the log in a file.
func TestPastaLogFile(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		c := h.container()
		path := filepath.Join(tmpDir(h.Lab), "log")
		h.attach("--config-net", "--log-file", path, "--log-size", "1048576", c.pid)
		t.Cleanup(func() { os.Remove(path) })
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	})
}

// TestPastaQuiet: a caller that shows what it gets has nothing to show.
func TestPastaQuiet(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	wantText(t, "output with --quiet", h.attach("--config-net", "--quiet", h.container().pid), "")
	wantText(t, "output of a command", h.pasta("--config-net", "--", "echo", "x").MustRun(), "x")
}
