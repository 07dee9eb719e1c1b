package callers

import (
	"fmt"
	"strings"
	"testing"

	"taproot/test/lab"
)

// inside runs podman in a guest of taproot's as in a machine of its own: podman
// takes itself for root, and netavark sets up bridges and rules in the guest's
// namespace. It gets the container's options and its command line.
const inside = `set -e
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
export CONTAINERS_CONF=%[1]s/home/.config/containers/containers.conf TMPDIR=/run
podman() { command podman --root /run/root --runroot /run/run --tmpdir /run/tmp --storage-driver vfs --network-config-dir /run/networks "$@"; }
podman network create --disable-dns bridge1 >&2
podman run --rm --ulimit=nofile=1024:1024 --ulimit=nproc=1024:1024 --network=bridge1 --rootfs %[1]s/rootfs sh -c '%[2]s'
iptables-save | grep -q NETAVARK
`

// TestPodmanInside: containers of podman in a guest have their way out through
// what netavark makes there, and TCP takes the shortcut.
func TestPodmanInside(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.SubIDs)
	lab.NeedProgram(t, append(containerPrograms, "podman", "/usr/lib/podman/netavark", "iptables", "unshare")...)
	w := newWorld(t, "")
	w.prepareContainers(t)
	w.needContainers(t)
	t.Cleanup(func() { w.podman("system", "migrate").MustStart().Status() })
	script := fmt.Sprintf(inside, w.Dir, "until test -e /enough; do curl -sS --max-time 40 "+w.url(lab.Outside4)+" || exit 1; sleep 0.1; done")
	c := w.user(w.TaprootPath(), "run", "--verbose", "--map-auto", "--", "unshare", "-m", "sh", "-c", script)
	c.Dir = w.Dir
	c.MustStart()
	// The first ones may go by frames: netavark has just changed the guest's rules.
	w.Eventually("a connection of the container's takes the shortcut, or all is over", func() bool {
		return tookShortcut(c.Err()) || isOver(c)
	})
	w.WriteFile("rootfs/enough", "")
	if got := c.Status(); got != 0 {
		t.Errorf("status: got %d, want 0", got)
	}
	wantContains(t, "container", c.Out(), greeting)
	if !tookShortcut(c.Err()) {
		t.Errorf("no connection of the container's took the shortcut:\n%s", c.Err())
	}
}

// tookShortcut tells whether a log has a connection of the container's that did.
func tookShortcut(log string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "way=shortcut") && strings.Contains(line, "initiator=10.89.") {
			return true
		}
	}
	return false
}

// isOver tells whether a command has ended.
func isOver(c *lab.Cmd) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}
