package e2e

import (
	"slices"
	"strings"
	"testing"

	"taproot/test/lab"
)

// TestAttachEnds: an attachment ends in order when its namespace is gone, whichever way
// it was named: then its ports are free, and nothing of it is left.
func TestAttachEnds(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "unshare", "nsenter", "mount", "umount")
	ofProcess := func(e *engineer) *container { return e.host.container() }
	tests := map[string]struct {
		start  func(e *engineer) *container
		target func(c *container) string
	}{
		"process":         {ofProcess, func(c *container) string { return c.pid }},
		"path below proc": {ofProcess, func(c *container) string { return "/proc/" + c.pid + "/ns/net" }},
		"path":            {(*engineer).container, func(c *container) string { return c.netns }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newHost(t).engineer()
			c := tt.start(e)
			run := e.command // path is seen there only
			if c.netns == "" {
				run = e.host.command
			}
			a := run(e.TaprootPath(), "attach", "-p", "8080:80", tt.target(c))
			a.Env = append(a.Env, "XDG_RUNTIME_DIR="+runtimeDir(e.Lab))
			a.MustStart()
			serveName(t, c.Namespace, "tcp", ":80", "container")
			awaitCall(t, e.Host, "tcp", "127.0.0.1:8080", "container "+gateway4)
			c.stop()
			if c.netns != "" {
				e.remove(c.netns)
			}
			e.Eventually("it ends", func() bool { return ended(a) })
			if got := a.Status(); got != 0 {
				t.Errorf("status: got %d, want 0; it said %q", got, a.Err())
			}
			e.awaitFree(8080)
			e.Eventually("nothing of it is left", func() bool {
				return !slices.ContainsFunc(e.Processes(), func(p lab.Process) bool { return strings.HasPrefix(p.Args, "taproot-") })
			})
		})
	}
}
