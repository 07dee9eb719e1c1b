package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"taproot/test/lab"
)

// names are the instances that taproot ls shows to the user.
func (h *host) names() (names []string) {
	h.t.Helper()
	var list []struct{ Name string }
	if err := json.Unmarshal([]byte(h.command(h.TaprootPath(), "ls", "--json").MustRun()), &list); err != nil {
		h.t.Fatal(err)
	}
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

// inRuntimeDir are the files that the user's instances have.
func (h *host) inRuntimeDir() (files []string) {
	h.t.Helper()
	if err := h.Host.Do(func() error {
		entries, err := os.ReadDir(filepath.Join(h.user.RuntimeDir, "taproot"))
		for _, e := range entries {
			files = append(files, e.Name())
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	return files
}

// TestUnaskedSocket: a pasta that was started as podman does it has a socket in the
// user's directory, by which ports are published and nothing is opened that the caller
// has closed, and leaves nothing there.
func TestUnaskedSocket(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	c := h.container()
	serveEchoes(t, c.Namespace, 80)
	h.attach("--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none", "--no-map-gw", "--quiet", c.pid)
	names := h.names()
	if len(names) != 1 || !strings.HasPrefix(names[0], "pasta-") {
		t.Fatalf("taproot ls: got %v, want one pasta-PID", names)
	}
	ctl := func(args ...string) *lab.Cmd {
		return h.command(h.TaprootPath(), append([]string{"ctl", names[0]}, args...)...)
	}
	ctl("publish", "*:8080:80/tcp,udp").MustRun()
	for _, network := range []string{"tcp", "udp"} {
		wantCall(t, h.Outside, network, join(lab.Host4, 8080), "80 "+lab.Outside4)
	}
	wantContains(t, "ports", ctl("ports").MustRun(), "*:8080", "open")
	ctl("unpublish", "1", "2").MustRun()
	wantCall(t, h.Outside, "tcp", join(lab.Host4, 8080), refused)
	for _, words := range [][]string{{"--reach=5432"}, {"8081:80", "--reach=53/udp"}} {
		closed := ctl(append([]string{"publish"}, words...)...).MustStart()
		if got := closed.Status(); got == 0 {
			t.Errorf("%v: got status 0, want an error", words)
		}
		wantContains(t, "what the caller has closed", closed.Err(), "--no-map-gw", "hint: ")
	}
	wantCall(t, h.Host, "tcp", "127.0.0.1:8081", refused)
	c.stop()
	h.Eventually("nothing is left", func() bool { return h.inRuntimeDir() == nil })
}

// TestNoUnaskedSocket: there is none where the user has no directory of his own, or
// does not want it, and pasta does its work without a word about it.
func TestNoUnaskedSocket(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, tt := range []struct{ name, variable string }{
		{"not wanted", "TAPROOT_API=off"},
		{"no directory", "XDG_RUNTIME_DIR="},
		{"a relative one", "XDG_RUNTIME_DIR=."},
		{"one that is not there", "XDG_RUNTIME_DIR=/run/user/none"},
		{"somebody else's", "XDG_RUNTIME_DIR=/run"},
		{"one in which nothing can be made", "XDG_RUNTIME_DIR=/proc/self"},
	} {
		c := h.container()
		p := h.pasta("--config-net", "--quiet", c.pid)
		p.Env = append(p.Env, tt.variable)
		if r := combined(t, p); r.status != 0 || r.output != "" {
			t.Errorf("%s: got status %d and %q, want 0 and nothing", tt.name, r.status, r.output)
		}
		if got := h.names(); got != nil {
			t.Errorf("%s: taproot ls: got %v, want nothing", tt.name, got)
		}
		if got := h.inRuntimeDir(); got != nil {
			t.Errorf("%s: got %v in the user's directory, want nothing", tt.name, got)
		}
		c.stop()
	}
}
