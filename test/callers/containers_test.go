package callers

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/internal/probe"
	"taproot/test/lab"
)

// containerPrograms is what podman and buildah need, besides themselves.
var containerPrograms = []string{"crun", "conmon"}

// settings of podman and buildah for a machine without systemd, and for a user
// without a cgroup. Every container has the machine's programs and ours.
const settings = `
[containers]
cgroups = "disabled"
volumes = ["/usr:/usr:ro", "%s:%[1]s:ro"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
network_cmd_path = "%[2]s"
`

// prepareContainers writes the settings, and makes what is to be the root of
// containers. It skips the test where a container without any network cannot
// be run either.
func (w *world) prepareContainers(t *testing.T) {
	t.Helper()
	w.hideUnifiedCgroup()
	w.user("sh", "-c", `mkdir -p home/.config/containers rootfs && cd rootfs &&
		mkdir -p usr etc proc sys dev tmp run var/tmp &&
		for d in bin sbin lib lib64; do ln -s usr/$d $d; done`).MustRun()
	config := filepath.Join("home", ".config", "containers")
	programs := filepath.Dir(w.ProgramArgs("serve")[0])
	w.WriteFile(filepath.Join(config, "containers.conf"), fmt.Sprintf(settings, programs, filepath.Join(w.Dir, "bin", "slirp4netns")))
	w.WriteFile(filepath.Join(config, "storage.conf"), "[storage]\ndriver = \"vfs\"\n")
}

// hideUnifiedCgroup covers the second hierarchy of a machine that has both:
// crun takes no user without a cgroup there.
func (w *world) hideUnifiedCgroup() {
	const dir = "/sys/fs/cgroup/unified"
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		w.Host.Cover(dir)
	}
}

// podman is a command of podman.
func (w *world) podman(args ...string) *lab.Cmd { return w.user("podman", args...) }

// run is a container that runs one command line and is removed then.
func (w *world) run(options, line string) *lab.Cmd {
	args := append([]string{"run", "--rm"}, strings.Fields(options)...)
	return w.podman(append(args, "--rootfs", w.rootfs(), "sh", "-c", line)...)
}

// serve starts a container in the background in which a service runs that
// tells clients their address, at port 80.
func (w *world) serve(name, options string) {
	args := append([]string{"run", "-d", "--name", name}, strings.Fields(options)...)
	args = append(args, "--rootfs", w.rootfs())
	w.podman(append(args, w.ProgramArgs("serve", ":80")...)...).MustRun()
}

func (w *world) rootfs() string { return filepath.Join(w.Dir, "rootfs") }

// eachPodman is each for tests with podman. At the end it removes what is left
// of containers.
func eachPodman(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	lab.Need(t, lab.SubIDs)
	each(t, append(containerPrograms, "podman"), func(t *testing.T, w *world) {
		w.preparePodman(t)
		test(t, w)
	})
}

// preparePodman makes a world one for podman.
func (w *world) preparePodman(t *testing.T) {
	t.Helper()
	w.prepareContainers(t)
	w.needContainers(t)
	t.Cleanup(func() {
		w.podman("rm", "--all", "--force", "--time=0").MustStart().Status()
		// Stops the process that holds podman's own user namespace.
		w.podman("system", "migrate").MustStart().Status()
	})
}

// needContainers skips the test where a container without any network does not
// run: that is the machine's fault, not ours.
func (w *world) needContainers(t *testing.T) {
	t.Helper()
	c := w.run("--network=none", "true")
	if status := c.MustStart().Status(); status != 0 {
		err := fmt.Errorf("podman run --network=none: status %d: %s", status, c.Err())
		lab.Lacks(t, &probe.Unsupported{Feature: "programs", Err: err})
	}
}
