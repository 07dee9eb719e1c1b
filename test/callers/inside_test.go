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
	script := fmt.Sprintf(inside, w.Dir, "curl -sS --max-time 20 "+w.url(lab.Outside4)+" "+w.url(lab.Outside4))
	c := w.user(w.TaprootPath(), "run", "--verbose", "--map-auto", "--", "unshare", "-m", "sh", "-c", script)
	c.Dir = w.Dir
	wantContains(t, "container", c.MustRun(), greeting+"\n"+greeting)
	for line := range strings.Lines(c.Err()) {
		if strings.Contains(line, "way=shortcut") && strings.Contains(line, "initiator=10.89.") {
			return
		}
	}
	t.Errorf("no connection of the container's took the shortcut:\n%s", c.Err())
}
