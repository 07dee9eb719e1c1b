package callers

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

// An instance is a helper that a caller has started, as taproot ctl sees it.
type instance struct {
	*world
	name string
}

// instance finds the only helper that runs. Neither its caller nor the user has
// asked for a socket.
func (w *world) instance(t *testing.T) *instance {
	t.Helper()
	var list []struct{ Name string }
	w.Eventually("taproot ls shows one instance", func() bool {
		out := w.user(w.TaprootPath(), "ls", "--json").MustRun()
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatalf("taproot ls --json: %q: %v", out, err)
		}
		return len(list) == 1
	})
	if name := list[0].Name; !strings.HasPrefix(name, "slirp4netns-") {
		t.Errorf("instance: got %q, want slirp4netns-PID", name)
	}
	return &instance{w, list[0].Name}
}

// ctl runs taproot ctl for the instance.
func (i *instance) ctl(args ...string) string {
	return i.user(i.TaprootPath(), append([]string{"ctl", i.name}, args...)...).MustRun()
}

// publish publishes what the words say and returns the ids of the rules.
func (i *instance) publish(t *testing.T, words ...string) (ids []string) {
	t.Helper()
	var added struct{ Rules []struct{ ID int } }
	out := i.ctl(append([]string{"publish", "--json"}, words...)...)
	if err := json.Unmarshal([]byte(out), &added); err != nil {
		t.Fatalf("publish: %q: %v", out, err)
	}
	for _, r := range added.Rules {
		ids = append(ids, strconv.Itoa(r.ID))
	}
	return ids
}

// wantPublishing publishes port 80 of the guest, where a service runs, looks at it and
// takes it back.
func (i *instance) wantPublishing(t *testing.T) {
	t.Helper()
	const address = lab.Host4 + ":8090"
	ids := i.publish(t, "*:8090:80/tcp,udp")
	for _, network := range []string{"tcp", "udp"} {
		wantPeer(t, i.Outside, network, address, lab.Outside4)
	}
	wantContains(t, "ports", i.ctl("ports"), "*:8090", "guest:80", "tcp", "udp", "open")
	i.Eventually("the client's flow", func() bool {
		return strings.Contains(i.ctl("flows", "--proto=udp", "--direction=inbound"), lab.Outside4)
	})
	i.ctl(append([]string{"unpublish"}, ids...)...)
	for _, network := range []string{"tcp", "udp"} {
		if peer, err := whoAmI(i.Outside, network, address); err == nil {
			t.Errorf("%s, taken back: got %v, want an error", network, peer)
		}
	}
	if out := i.ctl("ports"); strings.Contains(out, "8090") {
		t.Errorf("ports, taken back: got %q", out)
	}
}

// wantClosed wants the host's loopback to stay closed to a guest whose caller has
// closed it.
func (i *instance) wantClosed(t *testing.T) {
	t.Helper()
	c := i.user(i.TaprootPath(), "ctl", i.name, "publish", "--reach=5432").MustStart()
	if got := c.Status(); got == 0 {
		t.Error("a port of the host's loopback: got status 0, want an error")
	}
	wantContains(t, "a port of the host's loopback", c.Err(), "--disable-host-loopback")
}

// wantNoSocket waits for the end of everything that instances have in the user's
// directory.
func (w *world) wantNoSocket(t *testing.T) {
	t.Helper()
	dir := filepath.Join(w.session.RuntimeDir, "taproot")
	w.Eventually("the end of "+dir, func() (gone bool) {
		if err := w.Host.Do(func() error {
			_, err := os.Lstat(dir)
			gone = os.IsNotExist(err)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return gone
	})
}

// TestPodmanCtl publishes at run time what podman's container listens on.
func TestPodmanCtl(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.SubIDs)
	lab.NeedProgram(t, append(containerPrograms, "podman")...)
	w := newWorld(t, "")
	w.preparePodman(t)
	for _, h := range handlers {
		w.serve(h.name, h.option)
		i := w.instance(t)
		i.wantPublishing(t)
		i.wantClosed(t)
		w.podman("rm", "--force", "--time=0", h.name).MustRun()
		w.wantNoSocket(t)
	}
}

// TestRootlesskitCtl publishes at run time what rootlesskit's command listens on.
func TestRootlesskitCtl(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.SubIDs)
	lab.NeedProgram(t, "rootlesskit", "ip")
	w := newWorld(t, "")
	for range 2 { // rootlesskit kills the first one, whose socket is not in the way
		c := w.rootlesskit("--disable-host-loopback", w.ProgramArgs("serve", ":80")...)
		c.MustStart()
		i := w.instance(t)
		w.Eventually("the service", func() bool {
			ids := i.publish(t, "*:8091:80")
			_, err := whoAmI(w.Outside, "tcp", lab.Host4+":8091")
			i.ctl(append([]string{"unpublish"}, ids...)...)
			return err == nil
		})
		i.wantPublishing(t)
		i.wantClosed(t)
		c.Signal(syscall.SIGTERM)
		c.Status()
		w.wantNothingLeft(t)
	}
	wantText(t, "taproot ls --json at the end", w.user(w.TaprootPath(), "ls", "--json").MustRun(), "[]")
	w.wantNoSocket(t)
}
