package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// awaitFree waits until nobody has a TCP port of the host any more, and logs
// how long that took: callers count on a tenth of a second.
func (h *host) awaitFree(port int) {
	h.t.Helper()
	start := time.Now()
	lab.Eventually(h.t, "the port is free", func() bool { return canBind(h.Host, "tcp", port) })
	h.t.Logf("port free after %v", time.Since(start).Round(time.Millisecond))
}

// TestPastaQuit: it leaves with the network that it serves.
func TestPastaQuit(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		e := h.engineer()
		tests := []struct {
			name  string
			start func(e *engineer, pid string) *container
			end   func(e *engineer, c *container)
			lacks string
		}{
			{"path, after its process", startByPath, func(e *engineer, c *container) { c.stop(); e.remove(c.netns) }, ""},
			{"path, before its process", startByPath, func(e *engineer, c *container) { e.remove(c.netns) }, ""},
			{"pid", startByPID, func(_ *engineer, c *container) { c.stop() }, "runs on when its process has died"},
			{"path below /proc", startByProc, func(_ *engineer, c *container) { c.stop() }, "runs on when its process has died"},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				h := h.with(t)
				if h.lacking(tt.lacks) {
					return
				}
				e := &engineer{host: h, pid: e.pid}
				path := filepath.Join(tmpDir(h.Lab), "pid")
				c := tt.start(e, path)
				defer os.Remove(path)
				e.wake(c)
				serveName(t, c.Namespace, "tcp", ":80", "container")
				wantCall(t, h.Outside, "tcp", join(lab.Host4, 8080), "container "+lab.Outside4)
				tt.end(e, c)
				h.awaitFree(8080)
				pid := pidFile(t, path)
				h.Eventually("the process is gone", func() bool { return !runs(pid) })
			})
		}
	})
}

// quitOptions are the options of these tests; pid is the file to write.
func quitOptions(pid string) []string {
	return []string{"--config-net", "--quiet", "--pid", pid, "-t", "8080-8080:80-80", "-u", "none", "-T", "none", "-U", "none"}
}

func startByPath(e *engineer, pid string) *container {
	c := e.container()
	e.attach(append(quitOptions(pid), "--netns", c.netns)...)
	return c
}

func startByPID(e *engineer, pid string) *container {
	c := e.host.container()
	e.host.attach(append(quitOptions(pid), c.pid)...)
	return c
}

func startByProc(e *engineer, pid string) *container {
	c := e.container()
	e.attach(append(quitOptions(pid), "--netns", "/proc/"+c.pid+"/ns/net")...)
	return c
}

// TestPastaQuitInFront: in the foreground, too, it ends with status 0.
func TestPastaQuitInFront(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		e := h.engineer()
		c := e.container()
		front := e.pasta("--config-net", "-f", "-q", "--netns", c.netns).MustStart()
		h.Eventually("the interface is there", func() bool { return len(c.Links()) == 1 })
		c.stop()
		e.remove(c.netns)
		if got := front.Status(); got != 0 {
			t.Errorf("status: got %d, want 0", got)
		}
	})
}

func TestPastaNoQuit(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		e := h.engineer()
		c := e.container()
		path := filepath.Join(tmpDir(h.Lab), "pid")
		defer os.Remove(path)
		e.attach(append(quitOptions(path), "--no-netns-quit", "--netns", c.netns)...)
		e.remove(c.netns)
		// Long enough for it to notice, and for the process to be gone.
		left := time.After(500 * time.Millisecond)
		pid := pidFile(t, path)
		<-left
		e.wake(c)
		serveName(t, c.Namespace, "tcp", ":80", "container")
		wantCall(t, h.Outside, "tcp", join(lab.Host4, 8080), "container "+lab.Outside4)
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		h.Eventually("the process is gone", func() bool { return !runs(pid) })
	})
}

// TestPastaAgain starts and stops a container with the same port, again and
// again.
func TestPastaAgain(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		e := h.engineer()
		path := filepath.Join(tmpDir(h.Lab), "pid")
		defer os.Remove(path)
		for range 10 {
			c := startByPath(e, path)
			e.wake(c)
			serveName(t, c.Namespace, "tcp", ":80", "container")
			wantCall(t, h.Host, "tcp", join(lab.Host4, 8080), "container "+lab.Router4)
			c.stop()
			e.remove(c.netns)
			h.awaitFree(8080)
		}
	})
}

// TestPastaTwo has two containers at once, with the same ports inside.
func TestPastaTwo(t *testing.T) {
	bothPastas(t, func(t *testing.T, h *host) {
		e := h.engineer()
		a, b := e.container(), e.container()
		e.attach("--config-net", "-t", "8081-8081:80-80", "-u", "none", "-T", "none", "-U", "none", "--netns", a.netns)
		e.attach("--config-net", "-t", "8082-8082:80-80", "-u", "none", "-T", "none", "-U", "none", "--netns", b.netns)
		serveName(t, a.Namespace, "tcp", ":80", "a")
		serveName(t, b.Namespace, "tcp", ":80", "b")
		serveName(t, h.Outside, "udp", lab.Outside4+":53", "outside")
		e.wake(a)
		e.wake(b)
		for range 3 {
			wantCall(t, h.Outside, "tcp", join(lab.Host4, 8081), "a "+lab.Outside4)
			wantCall(t, h.Outside, "tcp", join(lab.Host4, 8082), "b "+lab.Outside4)
			wantCall(t, a.Namespace, "udp", join(lab.Outside4, 53), "outside "+lab.Host4)
			wantCall(t, b.Namespace, "udp", join(lab.Outside4, 53), "outside "+lab.Host4)
		}
		a.stop()
		e.remove(a.netns)
		h.awaitFree(8081)
		wantCall(t, h.Outside, "tcp", join(lab.Host4, 8082), "b "+lab.Outside4)
		wantCall(t, b.Namespace, "udp", join(lab.Outside4, 53), "outside "+lab.Host4)
	})
}
