package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// The tests of the pasta front end are in files that begin with pasta. They run
// against two programs of that name: the one that is installed, of March 2023,
// which shows that the test says what callers rely on, and ours. Where the
// installed one lacks something, or does it in a way that later ones changed,
// the row of the test says so in a field called lacks, and only ours is tested.

// A host is where a pasta is tested: a laboratory, the session of its user, and
// one of the two programs.
type host struct {
	*lab.Lab
	t        *testing.T
	user     *lab.Session
	path     string // of the program
	original bool
}

// newHost makes a laboratory for a test of ours.
func newHost(t *testing.T) *host {
	t.Helper()
	h := prepareHost(t)
	h.path = filepath.Join(h.Dir, "pasta")
	if err := os.Symlink(h.TaprootPath(), h.path); err != nil {
		t.Fatal(err)
	}
	return h
}

// newOriginalHost is newHost for the program that is installed.
func newOriginalHost(t *testing.T) *host {
	t.Helper()
	lab.NeedProgram(t, "pasta")
	h := prepareHost(t)
	path, err := exec.LookPath("pasta")
	if err != nil {
		t.Fatal(err)
	}
	h.path, h.original = path, true
	// It does not notice that a process is gone whose network it serves.
	t.Cleanup(func() { killPastas(h.Lab) })
	return h
}

// killPastas kills what the installed program left running. An orphan may be
// overlooked once, on its way to its new parent.
func killPastas(l *lab.Lab) {
	for empty := 0; empty < 3; empty++ {
		for _, p := range l.Processes() {
			if strings.HasPrefix(p.Name, "pas") { // also passt.avx2
				syscall.Kill(p.PID, syscall.SIGKILL)
				empty = 0
			}
		}
	}
}

func prepareHost(t *testing.T) *host {
	t.Helper()
	lab.Need(t, lab.IPv6)
	l := newLab(t)
	return &host{Lab: l, t: t, user: l.Session()}
}

// with is the same host for a subtest.
func (h *host) with(t *testing.T) *host {
	with := *h
	with.t = t
	with.Lab = h.Lab.With(t)
	with.user = h.user.With(with.Lab)
	return &with
}

// bothPastas runs a test against either program, in parallel.
func bothPastas(t *testing.T, test func(t *testing.T, h *host)) {
	t.Parallel()
	t.Run("original", func(t *testing.T) {
		t.Parallel()
		test(t, newOriginalHost(t))
	})
	t.Run("ours", func(t *testing.T) {
		t.Parallel()
		test(t, newHost(t))
	})
}

// lacking reports whether a row is not for the program of this host.
func (h *host) lacking(lacks string) bool { return h.original && lacks != "" }

// command is a command of the user.
func (h *host) command(name string, args ...string) *lab.Cmd {
	c := h.user.Command(name, args...)
	c.Env = append(c.Env, "TMPDIR="+tmpDir(h.Lab), "SHELL=/bin/sh")
	return c
}

// pasta is the program under test, started by the user.
func (h *host) pasta(args ...string) *lab.Cmd { return h.command(h.path, args...) }

// A result is what a caller sees of a program.
type result struct {
	status int
	output string // of both kinds, as it came
}

// combined runs a program as callers do, with one pipe for both outputs, and
// waits until it has ended and nobody holds the pipe any more.
func combined(t *testing.T, c *lab.Cmd) result {
	t.Helper()
	var both lab.Buffer
	c.Stdout, c.Stderr = &both, &both
	c.MustStart()
	if errors.Is(c.Wait(), exec.ErrWaitDelay) {
		t.Errorf("%v: the caller's pipe is still open", c.Args)
	}
	return result{c.Status(), both.String()}
}

// attach runs the program under test, which has to end with status 0.
func (h *host) attach(args ...string) string {
	h.t.Helper()
	r := combined(h.t, h.pasta(args...))
	if r.status != 0 {
		h.t.Fatalf("pasta %s: status %d, output %q", strings.Join(args, " "), r.status, r.output)
	}
	return r.output
}

// A container is a process with its own network.
type container struct {
	*lab.Namespace
	holder *lab.Cmd
	pid    string // of the process
	netns  string // a file that stands for the network, "" if there is none
}

// container starts a process in new user and network namespaces.
func (h *host) container() *container {
	h.t.Helper()
	return h.holdNetwork(h.command("unshare", "--user", "--map-root-user", "--net", "cat"))
}

// holdNetwork is hold for a command that has a network of its own.
func (h *host) holdNetwork(c *lab.Cmd) *container {
	h.t.Helper()
	held := h.hold(c)
	if h.original {
		held.calm()
	}
	return held
}

// calm turns duplicate address detection off in a container. For the second or
// two that it takes (RFC 4862 section 5.4), the kernel also sends packets from
// the address ::, and the old program, which believes every source address,
// sends to :: what comes in for the container then.
func (c *container) calm() {
	for _, which := range []string{"all", "default"} {
		c.Sysctl("net/ipv6/conf/"+which+"/accept_dad", "0")
	}
}

// hold starts what becomes cat in another network namespace, and waits until it
// has. It runs until its standard input ends.
func (h *host) hold(c *lab.Cmd) *container {
	h.t.Helper()
	if _, err := c.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	c.Stay()
	c.MustStart()
	pid := strconv.Itoa(c.Process.Pid)
	h.Eventually("the container runs", func() bool {
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		return err == nil && string(name) == "cat\n"
	})
	return &container{Namespace: h.NamespaceOf(c.Process.Pid, "container"), holder: c, pid: pid}
}

// stop ends the container's process.
func (c *container) stop() {
	c.holder.Process.Kill()
	c.holder.Wait()
}

// An engineer is a rootless container engine: root of a user namespace of the
// user's, with mounts of its own.
type engineer struct {
	*host
	pid string
}

// engineer starts a container engine.
func (h *host) engineer() *engineer {
	h.t.Helper()
	c := h.command("unshare", "--user", "--map-root-user", "--mount", "cat")
	return &engineer{host: h, pid: h.hold(c).pid}
}

// command is a command of the engine.
func (e *engineer) command(name string, args ...string) *lab.Cmd {
	words := []string{"--target", e.pid, "--user", "--mount", "--preserve-credentials", "--", name}
	return e.host.command("nsenter", append(words, args...)...)
}

// container starts a process in a new network namespace, with a file that
// stands for it.
func (e *engineer) container() *container {
	e.t.Helper()
	c := e.holdNetwork(e.command("unshare", "--net", "cat"))
	c.netns = e.nsfile(c.pid)
	return c
}

// nsfile binds the network of a process to a new file, as engines do.
func (e *engineer) nsfile(pid string) string {
	e.t.Helper()
	path := filepath.Join(tmpDir(e.Lab), "netns-"+pid)
	e.command("sh", "-ec", "touch $0; mount --bind /proc/$1/ns/net $0", path, pid).MustRun()
	e.t.Cleanup(func() { os.Remove(path) })
	return path
}

// remove unmounts the file and deletes it, in the way engines do with a
// container whose process has ended.
func (e *engineer) remove(path string) {
	e.t.Helper()
	e.command("sh", "-ec", "umount --lazy $0; rm $0", path).MustRun()
}

// pasta is the program under test, started by the engine.
func (e *engineer) pasta(args ...string) *lab.Cmd { return e.command(e.path, args...) }

// wake lets a container send a packet of each family: the old program does not
// know before how to reach it (see calm).
func (h *host) wake(c *container) {
	h.t.Helper()
	if !h.original {
		return
	}
	h.Eventually("the container has an address for all it sends", func() bool {
		return !slices.ContainsFunc(c.Links(), func(l lab.Link) bool { return l.Silent })
	})
	for _, f := range families {
		if conn, err := c.Dial(context.Background(), "udp", join(f.outside, 9)); err == nil {
			conn.Write(nil)
			conn.Close()
		}
	}
}

// attach runs the program under test, which has to end with status 0.
func (e *engineer) attach(args ...string) string {
	e.t.Helper()
	r := combined(e.t, e.pasta(args...))
	if r.status != 0 {
		e.t.Fatalf("pasta %s: status %d, output %q", strings.Join(args, " "), r.status, r.output)
	}
	return r.output
}

// serveName answers, at a TCP or UDP address, with a name and the client's IP
// address.
func serveName(t *testing.T, n *lab.Namespace, network, address, name string) io.Closer {
	t.Helper()
	reply := func(peer net.Addr) []byte {
		at := netip.MustParseAddrPort(peer.String())
		return []byte(name + " " + at.Addr().Unmap().WithZone("").String())
	}
	if strings.HasPrefix(network, "udp") {
		conn := n.ListenPacket(network, address)
		go func() {
			b := make([]byte, 65536)
			for {
				if _, peer, err := conn.ReadFrom(b); err == nil {
					conn.WriteTo(reply(peer), peer)
				} else if errors.Is(err, net.ErrClosed) {
					return
				}
			}
		}()
		return conn
	}
	listener := n.Listen(network, address)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				// The old program does not complete a connection before the
				// client has spoken.
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					conn.Write(reply(conn.RemoteAddr()))
				}
			}()
		}
	}()
	return listener
}

// Answers of call when there is none.
const (
	refused = "refused" // also a connection that ends at once: the helper's own ends
	silence = "silence"
)

// nobodyLimit is how long a test waits for the answer that it does not want: an
// answer takes a few milliseconds, on a busy machine some hundred.
const nobodyLimit = 2 * time.Second

// call asks a server of serveName and returns its answer, or refused, or, after
// limit, silence.
func call(n *lab.Namespace, network, address string, limit time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := n.Dial(ctx, network, address)
	if err != nil {
		return failure(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Write([]byte("?")); err != nil {
		return failure(err)
	}
	if strings.HasPrefix(network, "udp") {
		b := make([]byte, 1500)
		size, err := conn.Read(b)
		if err != nil {
			return failure(err)
		}
		return string(b[:size])
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		return failure(err)
	}
	if len(b) == 0 {
		return refused
	}
	return string(b)
}

// failure is what an error means to the client.
func failure(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return refused
	case errors.As(err, &timeout) && timeout.Timeout():
		return silence
	default:
		return errno(err)
	}
}

// insist is call for an answer that has to come, however slow the machine is. A
// datagram gets several chances: it may have been lost.
func insist(n *lab.Namespace, network, address string) string {
	chances := 1
	if strings.HasPrefix(network, "udp") {
		chances = 5
	}
	got := silence
	for i := 0; i < chances && got == silence; i++ {
		got = call(n, network, address, lab.Patience/time.Duration(chances))
	}
	return got
}

// wantCall fails the test unless the answer is want.
func wantCall(t *testing.T, n *lab.Namespace, network, address, want string) {
	t.Helper()
	if got := insist(n, network, address); got != want {
		t.Errorf("%s %s from %s: got %q, want %q", network, address, n.Name, got, want)
	}
}

// wantNobody fails the test if somebody answers.
func wantNobody(t *testing.T, n *lab.Namespace, network, address string) {
	t.Helper()
	if got := call(n, network, address, nobodyLimit); strings.Contains(got, " ") {
		t.Errorf("%s %s from %s: got %q, want nobody", network, address, n.Name, got)
	}
}

// awaitCall waits until the answer is want. Each call may take longer than the
// one before it: what does not answer yet need not do so later, and what does
// may be slow.
func awaitCall(t *testing.T, n *lab.Namespace, network, address, want string) {
	t.Helper()
	limit := time.Second
	lab.Eventually(t, fmt.Sprintf("%s %s from %s answers %q", network, address, n.Name, want), func() bool {
		got := call(n, network, address, limit)
		limit = min(2*limit, lab.Patience/4)
		return got == want
	})
}

// eventually waits until a condition holds and reports whether it does.
func eventually(condition func() bool) bool {
	deadline := time.Now().Add(lab.Patience)
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// onlyLink is the container's one interface.
func onlyLink(t *testing.T, c *container) lab.Link {
	t.Helper()
	links := c.Links()
	if len(links) != 1 {
		t.Fatalf("interfaces of the container: got %+v, want one", links)
	}
	return links[0]
}

// wantSame fails the test if two lists differ.
func wantSame(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Clone(got), slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// pidFile reads a pid file: a decimal number and a newline, for its owner only.
func pidFile(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the pid file: got %o, want 600", got)
	}
	number, ok := bytes.CutSuffix(text, []byte("\n"))
	pid, err := strconv.Atoi(string(number))
	if err != nil || !ok {
		t.Fatalf("pid file: got %q, want a number and a newline", text)
	}
	return pid
}

// runs reports whether a process runs: what callers do with the number in a pid
// file.
func runs(pid int) bool { return syscall.Kill(pid, 0) == nil }
