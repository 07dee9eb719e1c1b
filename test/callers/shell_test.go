package callers

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"taproot/test/lab"
)

func pidText(pid int) string { return strconv.Itoa(pid) }

// TestBubblewrap: bubblewrap tells the process id of its child and lets it wait
// until the network is there.
func TestBubblewrap(t *testing.T) {
	t.Parallel()
	each(t, []string{"bwrap"}, func(t *testing.T, w *world) {
		resolv := w.WriteFile("resolv.conf", "nameserver 10.0.2.3\n")
		c := w.user("bwrap", "--unshare-user", "--unshare-net", "--unshare-pid", "--die-with-parent", "--bind", "/", "/",
			"--proc", "/proc", "--ro-bind", resolv, "/etc/resolv.conf",
			"--info-fd", "3", "--block-fd", "4", "sh", "-c", w.fetch())
		info, infoIn := pipe(t)
		blockOut, block := pipe(t)
		c.ExtraFiles = []*os.File{infoIn, blockOut}
		c.MustStart()
		infoIn.Close()
		blockOut.Close()
		info.SetReadDeadline(time.Now().Add(lab.Patience))
		var told struct {
			PID int `json:"child-pid"`
		}
		if err := json.NewDecoder(info).Decode(&told); err != nil {
			t.Fatalf("read what bwrap tells: %v: %s", err, c.Err())
		}
		h := w.start(t, "--configure", "--mtu=65520", "--disable-host-loopback", pidText(told.PID), "tap0")
		if _, err := block.WriteString("x"); err != nil {
			t.Fatal(err)
		}
		if got := c.Status(); got != 0 {
			t.Errorf("status of the command: got %d, want 0: %s", got, c.Err())
		}
		wantText(t, "page", c.Out(), greeting)
		h.stop(t)
	})
}

// TestShell: the two terminals of the manual.
func TestShell(t *testing.T) {
	t.Parallel()
	each(t, []string{"unshare", "nsenter"}, func(t *testing.T, w *world) {
		first := w.user("sh", "-c", `unshare --user --map-root-user --net --mount sh -c '
			echo $$ >pid.new && mv pid.new pid &&
			mount --bind resolv.conf /etc/resolv.conf &&
			until test -e ready; do sleep 0.01; done &&
			`+w.fetch()+`'`)
		w.WriteFile("resolv.conf", "nameserver 10.0.2.3\n")
		first.MustStart()
		second := w.user("sh", "-c", `until test -e pid; do sleep 0.01; done
			exec slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd=3 $(cat pid) tap0 3>ready.new`)
		second.MustStart()
		third := w.user("sh", "-c", `until test -s ready.new; do sleep 0.01; done
			nsenter --preserve-credentials --user --net --target=$(cat pid) cat /proc/net/dev && touch ready`)
		wantContains(t, "nsenter", third.MustRun(), "tap0:")
		if got := first.Status(); got != 0 {
			t.Errorf("status in the namespace: got %d, want 0: %s", got, first.Err())
		}
		wantText(t, "page", first.Out(), greeting)
		second.Signal(os.Interrupt)
		if got := second.Status(); w.original && got != 130 || !w.original && got != 0 && got != 130 {
			t.Errorf("status of slirp4netns: got %d, want 130, or 0 because its namespace is gone", got)
		}
	})
}

// A helper is a slirp4netns that a test has started itself.
type helper struct {
	*lab.Cmd
	exit *os.File
}

// start starts slirp4netns with two descriptors, 3 for readiness and 4 for the
// end, and waits until it is ready.
func (w *world) start(t *testing.T, args ...string) *helper {
	t.Helper()
	return w.startAs(t, w.user("slirp4netns", append([]string{"-r", "3", "-e", "4"}, args...)...), 0)
}

// startAs starts a command with two pipes; ready is which of them is for
// readiness.
func (w *world) startAs(t *testing.T, c *lab.Cmd, ready int) *helper {
	t.Helper()
	readyOut, readyIn := pipe(t)
	exitOut, exit := pipe(t)
	c.ExtraFiles = []*os.File{exitOut, exitOut}
	c.ExtraFiles[ready] = readyIn
	c.MustStart()
	readyIn.Close()
	exitOut.Close()
	readyOut.SetReadDeadline(time.Now().Add(lab.Patience))
	b := make([]byte, 16)
	if n, err := readyOut.Read(b); n < 1 || err != nil {
		c.Signal(os.Kill)
		t.Fatalf("ready descriptor: got %d bytes (%v); status %d: %s", n, err, c.Status(), c.Err())
	}
	return &helper{c, exit}
}

// stop hangs up, and wants the helper to leave well.
func (h *helper) stop(t *testing.T) {
	t.Helper()
	h.exit.Close()
	if got := h.Status(); got != 0 {
		t.Errorf("status of slirp4netns: got %d, want 0: %s", got, h.Err())
	}
}

// pipe makes a pipe that is closed when the test ends.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}
