package callers

import (
	"fmt"
	"testing"

	"taproot/internal/probe"
	"taproot/test/lab"
)

// TestBuildah: a step of a build that fetches something.
func TestBuildah(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.SubIDs)
	each(t, append(containerPrograms, "buildah"), func(t *testing.T, w *world) {
		w.prepareContainers(t)
		build := func(network, line string) (string, error) {
			w.WriteFile("Dockerfile", "FROM scratch\nADD rootfs /\nRUN "+line+"\n")
			c := w.user("buildah", "build", "--network="+network, "--isolation=rootless", "--volume=/usr:/usr:ro", w.Dir)
			err := c.Run()
			return c.Out() + c.Err(), err
		}
		if out, err := build("none", "true"); err != nil {
			// The machine's fault, not ours.
			err = fmt.Errorf("buildah build --network=none: %w: %s", err, out)
			lab.Lacks(t, &probe.Unsupported{Feature: "programs", Err: err})
		}
		out, err := build("private", "cat /proc/net/dev && "+w.fetch())
		if err != nil {
			t.Fatalf("build: %v: %s", err, out)
		}
		wantContains(t, "output of the step", out, "tap0:", greeting)
		w.wantCall(t, "--mtu 65520 -r 3 -c ID tap0")
	})
}
