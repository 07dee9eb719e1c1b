package callers

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// TestRecorded starts slirp4netns with the command lines of callers that Debian
// does not have, as they start it, and checks what they check.
func TestRecorded(t *testing.T) {
	t.Parallel()
	each(t, []string{"unshare", "nsenter", "ip"}, func(t *testing.T, w *world) {
		t.Run("podman 4.4 to 5", func(t *testing.T) { podmanLater(t, w.with(t)) })
		t.Run("podman with a network set up later", func(t *testing.T) { podmanLate(t, w.with(t)) })
		t.Run("podman rootless network", func(t *testing.T) { podmanRootlessNetwork(t, w.with(t)) })
		t.Run("buildah", func(t *testing.T) { buildahClosed(t, w.with(t)) })
		t.Run("rootlesskit 2 and 3", func(t *testing.T) { rootlesskitDetached(t, w.with(t)) })
	})
}

// with is the same for a subtest.
func (w *world) with(t *testing.T) *world {
	with := *w
	with.Lab = w.Lab.With(t)
	with.session = w.session.With(with.Lab)
	return &with
}

// confined are the options that podman always gives.
const confined = "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6"

// podmanLater: containers/common gives the two descriptors in the other order,
// and podman asks for ports as soon as the socket's file is there.
func podmanLater(t *testing.T, w *world) {
	p := w.newPause(t)
	api := filepath.Join(w.session.RuntimeDir, "libpod.net")
	h := p.slirp(t, 0, confined+" -c -r 3 -e 4 --api-socket "+api+" --netns-type=path "+p.netns+" tap0")
	// A process that has ended by now has failed; one that has left a child
	// behind cannot be ended by its id any more.
	select {
	case <-h.Done():
		t.Fatalf("ended after it was ready: %s", h.Err())
	default:
	}
	out := p.inNetNS("ip", "address", "show", "tap0").MustRun()
	wantContains(t, "interface", out, "mtu 65520", " 10.0.2.100/24 ")
	const add = `{"execute":"add_hostfwd","arguments":{"proto":%q,"host_addr":"","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}}`
	for _, network := range []string{"tcp", "udp"} {
		if reply := w.oneRead(t, api, fmt.Sprintf(add, network)); strings.Contains(reply, `"error"`) {
			t.Errorf("add_hostfwd: got %s, want no error", reply)
		}
	}
	words := w.ProgramArgs("serve", ":80")
	p.inNetNS(words[0], words[1:]...).MustStart()
	wantPeer(t, w.Outside, "tcp", lab.Host4+":8080", lab.Outside4)
	wantPeer(t, w.Outside, "udp", lab.Host4+":8080", lab.Outside4)
	w.wantShortcut(t, lab.Host4+":8080")
	if reply := w.oneRead(t, api, fmt.Sprintf(add, "tcp")); !strings.Contains(reply, `"error"`) {
		t.Errorf("add_hostfwd again: got %s, want an error", reply)
	}
	h.stop(t)
}

// podmanLate: the container makes its own network namespace, and the helper
// gets its process id.
func podmanLate(t *testing.T, w *world) {
	p := w.newPause(t)
	container := w.hold(t, p.command("unshare", "--net", "sh", "-c", "echo ready && exec cat"))
	h := p.slirp(t, 1, confined+" -c -e 3 -r 4 "+pidText(container.Process.Pid)+" tap0")
	net := "--net=/proc/" + pidText(container.Process.Pid) + "/ns/net"
	out := p.command("nsenter", net, "cat", "/proc/net/dev").MustRun()
	wantContains(t, "interfaces", out, "tap0:")
	h.stop(t)
}

// podmanRootlessNetwork: no exit descriptor but SIGTERM ends the helper.
func podmanRootlessNetwork(t *testing.T, w *world) {
	p := w.newPause(t)
	h := p.slirp(t, 0, confined+" -c -r 3 --netns-type=path "+p.netns+" tap0")
	wantContains(t, "interfaces", p.inNetNS("cat", "/proc/net/dev").MustRun(), "tap0:")
	h.Signal(syscall.SIGTERM)
	if got, want := h.Status(), 128+int(syscall.SIGTERM); got != want {
		t.Errorf("status after SIGTERM: got %d, want %d", got, want)
	}
}

// A pause is what podman calls the process that holds its user and mount
// namespace, in which it is root. A mount there keeps a network namespace.
type pause struct {
	*world
	pid   int
	netns string // its path, there only
}

func (w *world) newPause(t *testing.T) *pause {
	t.Helper()
	netns := filepath.Join(w.Dir, "netns")
	line := "touch " + netns + " && unshare --net=" + netns + " true && echo ready && exec cat"
	c := w.hold(t, w.user("unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", line))
	return &pause{world: w, pid: c.Process.Pid, netns: netns}
}

// command is a command in podman's namespaces.
func (p *pause) command(name string, args ...string) *lab.Cmd {
	words := []string{"--user", "--mount", "--preserve-credentials", "--target=" + pidText(p.pid), "--", name}
	return p.user("nsenter", append(words, args...)...)
}

// inNetNS is a command in the network namespace that the mount keeps.
func (p *pause) inNetNS(name string, args ...string) *lab.Cmd {
	return p.command("nsenter", append([]string{"--net=" + p.netns, "--", name}, args...)...)
}

// slirp starts slirp4netns as podman does, in a mount namespace of its own, with
// two pipes of which the one at place ready is for readiness.
func (p *pause) slirp(t *testing.T, ready int, args string) *helper {
	t.Helper()
	return p.startAs(t, p.command("unshare", append([]string{"--mount", "--", "slirp4netns"}, strings.Fields(args)...)...), ready)
}

// oneRead sends a request, closes its half and reads once, as podman does.
func (w *world) oneRead(t *testing.T, api, request string) string {
	t.Helper()
	conn, err := w.Host.Dial(t.Context(), "unix", api)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lab.Patience))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return string(b[:n])
}

// hold starts a command that says ready, and stays until the test ends.
func (w *world) hold(t *testing.T, c *lab.Cmd) *lab.Cmd {
	t.Helper()
	end, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	c.MustStart()
	w.Eventually("the namespaces are there", func() bool { return c.Out() == "ready\n" })
	return c
}

// holder is such a command with a user, a network and a mount namespace, after
// it has run a command line there.
func (w *world) holder(t *testing.T, line string) *lab.Cmd {
	t.Helper()
	return w.hold(t, w.user("unshare", "--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", line+" && echo ready && exec cat"))
}

// buildahClosed: buildah gives it no standard descriptors at all, reads one
// byte and kills it in the end.
func buildahClosed(t *testing.T, w *world) {
	target := w.holder(t, "true")
	line := "exec slirp4netns --mtu 65520 -r 3 -c " + pidText(target.Process.Pid) + " tap0 <&- >&- 2>&-"
	h := w.startAs(t, w.user("sh", "-c", line), 0)
	out := w.user("nsenter", "--user", "--net", "--preserve-credentials", "--target="+pidText(target.Process.Pid), "--",
		"sh", "-c", "curl -sS --max-time 40 "+w.url(lab.Outside4)).MustRun()
	wantText(t, "page", out, greeting)
	h.Signal(os.Kill)
	h.Status()
	w.wantNothingLeft(t)
}

// rootlesskitDetached: the network namespace is not that of the child, which
// keeps it by a mount; the device is there already; the end is SIGKILL.
func rootlesskitDetached(t *testing.T, w *world) {
	path := filepath.Join(w.Dir, "detached")
	child := w.holder(t, fmt.Sprintf(`touch %[1]s && unshare --net=%[1]s sh -c "ip tuntap add name tap0 mode tap && ip link set tap0 up mtu 65520 &&
		ip addr add 10.0.2.100/24 dev tap0 && ip route add default via 10.0.2.2"`, path))
	pid := pidText(child.Process.Pid)
	seen := "/proc/" + pid + "/root" + path
	for range 2 {
		c := w.user("slirp4netns", "--mtu", "65520", "-r", "3", "--disable-host-loopback",
			"--userns-path=/proc/"+pid+"/ns/user", "--netns-type=path", seen, "tap0")
		h := w.startAs(t, c, 0)
		in := &pause{world: w, pid: child.Process.Pid, netns: path}
		out := in.inNetNS("curl", "-sS", "--max-time", "40", w.url(lab.Outside4)).MustRun()
		wantText(t, "page", out, greeting)
		h.Signal(os.Kill)
		h.Status()
		w.wantNothingLeft(t)
	}
}
