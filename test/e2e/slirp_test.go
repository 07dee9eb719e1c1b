package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"taproot/test/lab"
)

// A slirp is one of the programs that answer to the name slirp4netns, in a
// laboratory of its own. What the tests want of both is what callers of the
// original rely on; where the original is known to do otherwise, the row says
// so in its own field.
type slirp struct {
	*lab.Lab
	session *lab.Session
	path    string
	// original is slirp4netns itself, which has to pass too: that proves the
	// test.
	original bool
	// inside, unless nil, is whose user namespace the program is started in.
	inside *target
}

// eachSlirp runs test against slirp4netns and against taproot under that name.
func eachSlirp(t *testing.T, test func(t *testing.T, s slirp)) {
	t.Helper()
	t.Run("original", func(t *testing.T) {
		t.Parallel()
		lab.NeedProgram(t, "slirp4netns")
		path, err := exec.LookPath("slirp4netns")
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t)
		test(t, slirp{Lab: l, session: l.Session(), path: path, original: true})
	})
	ourSlirp(t, test)
}

// ourSlirp runs test against taproot alone, for what the original does not have.
func ourSlirp(t *testing.T, test func(t *testing.T, s slirp)) {
	t.Helper()
	t.Run("taproot", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		path := filepath.Join(l.Dir, "slirp4netns")
		if err := os.Symlink(l.TaprootPath(), path); err != nil {
			t.Fatal(err)
		}
		test(t, slirp{Lab: l, session: l.Session(), path: path})
	})
}

// with is the same for a subtest.
func (s slirp) with(t *testing.T) slirp {
	s.Lab = s.Lab.With(t)
	s.session = s.session.With(s.Lab)
	return s
}

// command is the program with these arguments.
func (s slirp) command(args ...string) *lab.Cmd {
	words := append([]string{s.path}, args...)
	if s.inside != nil {
		words = append([]string{"nsenter", "--user=" + s.inside.user(), "--preserve-credentials", "--"}, words...)
	}
	c := s.session.Command(words[0], words[1:]...)
	c.Env = append(c.Env, "TMPDIR="+tmpDir(s.Lab))
	return c
}

// A target is a process with a user and a network namespace of its own.
type target struct {
	*lab.Cmd
	// net is its network namespace, for the test to act in.
	net *lab.Namespace
	end io.Closer
}

// target starts one, with these options of unshare(1): by default the user is
// root in it. Duplicate address detection is off, as podman has it.
func (s slirp) target(t *testing.T, options ...string) *target {
	t.Helper()
	if options == nil {
		options = []string{"--map-root-user"}
	}
	options = append(options, "--user", "--net", "--", "sh", "-c", "echo ready && exec cat")
	c := s.session.Command("unshare", options...)
	end, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.MustStart()
	t.Cleanup(func() { end.Close() })
	s.Eventually("the target has its namespaces", func() bool { return c.Out() == "ready\n" })
	n := s.NamespaceOf(c.Process.Pid, "guest")
	if lab.IPv6.Available() {
		n.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	}
	return &target{Cmd: c, net: n, end: end}
}

// pid is the target's, as an argument.
func (t *target) pid() string { return fmt.Sprint(t.Process.Pid) }

// user is the path of its user namespace, network of the other.
func (t *target) user() string    { return "/proc/" + t.pid() + "/ns/user" }
func (t *target) network() string { return "/proc/" + t.pid() + "/ns/net" }

// A helper is a running program: one that has been started with --ready-fd=3
// and --exit-fd=4.
type helper struct {
	*lab.Cmd
	ready, exit *os.File
}

// start starts the program with these arguments, besides those for the two
// descriptors.
func (s slirp) start(t *testing.T, args ...string) *helper {
	t.Helper()
	c := s.command(append([]string{"--ready-fd=3", "--exit-fd=4"}, args...)...)
	ready, readyIn := pipe(t)
	exitOut, exit := pipe(t)
	c.ExtraFiles = []*os.File{readyIn, exitOut}
	c.MustStart()
	readyIn.Close()
	exitOut.Close()
	return &helper{c, ready, exit}
}

// run starts the program and waits until it is ready.
func (s slirp) run(t *testing.T, args ...string) *helper {
	t.Helper()
	h := s.start(t, args...)
	h.wantReady(t)
	return h
}

// attach is run for a target, whose interface is configured and called tap0.
func (s slirp) attach(t *testing.T, to *target, options ...string) *helper {
	t.Helper()
	return s.run(t, append(options, "--configure", to.pid(), "tap0")...)
}

// wantReady waits for the byte that says ready, and for nothing after it.
func (h *helper) wantReady(t *testing.T) {
	t.Helper()
	if got := h.said(t); got != "1" {
		h.Signal(os.Kill)
		t.Fatalf("ready descriptor: got %q, want \"1\"; status %d, %s", got, h.Status(), h.Err())
	}
}

// said is everything the program writes to the ready descriptor.
func (h *helper) said(t *testing.T) string {
	t.Helper()
	h.ready.SetReadDeadline(time.Now().Add(lab.Patience))
	b, err := io.ReadAll(h.ready)
	if err != nil {
		t.Fatalf("ready descriptor: %v after %q", err, b)
	}
	return string(b)
}

// stop hangs up the exit descriptor, and wants the program to leave well.
func (h *helper) stop(t *testing.T) {
	t.Helper()
	h.exit.Close()
	if got := h.Status(); got != 0 {
		t.Errorf("status after the exit descriptor: got %d, want 0: %s", got, h.Err())
	}
}

// link is the one interface of the target besides lo.
func (t *target) link(tb testing.TB) lab.Link {
	tb.Helper()
	links := t.net.Links()
	if len(links) != 1 {
		tb.Fatalf("interfaces: got %v, want one", links)
	}
	return links[0]
}

// connect connects from the namespace to a port of address, and tells what came
// of it: "connected" or the name of the error.
func (t *target) connect(tb testing.TB, address string, to net.Addr) string {
	tb.Helper()
	return t.dial(tb, join(address, port(to)))
}

func (t *target) dial(tb testing.TB, address string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Patience)
	defer cancel()
	conn, err := t.net.Dial(ctx, "tcp", address)
	if err != nil {
		return errno(err)
	}
	conn.Close()
	return "connected"
}
