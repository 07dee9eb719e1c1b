package callers

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"taproot/internal/probe"
	"taproot/test/lab"
)

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, lab.Programs{
		"serve": serveProgram,
		"ask":   askProgram,
	}))
}

// A world is a laboratory with a user who has what a caller needs: ids to give
// away, where there are some, a home, and a slirp4netns in the first directory
// of PATH, which notes how it is called.
type world struct {
	*lab.Lab
	session *lab.Session
	// setUID is a directory with newuidmap and newgidmap, unless there are no
	// ids to give away.
	setUID string
	// original says whether slirp4netns is the original.
	original bool
	// web is a web server on the outside, which is www.example.test.
	web net.Listener
}

// each runs test with slirp4netns and with taproot under that name. The test
// needs these programs.
func each(t *testing.T, programs []string, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Run("original", func(t *testing.T) {
		t.Parallel()
		lab.NeedProgram(t, append(programs, "slirp4netns")...)
		path, err := exec.LookPath("slirp4netns")
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, path)
		w.original = true
		test(t, w)
	})
	t.Run("taproot", func(t *testing.T) {
		t.Parallel()
		lab.NeedProgram(t, programs...)
		test(t, newWorld(t, ""))
	})
}

// newWorld makes a world with that slirp4netns; "" is taproot.
func newWorld(t *testing.T, slirp string) *world {
	t.Helper()
	lab.Need(t, lab.NetNS, lab.TUN)
	lab.NeedProgram(t, "curl")
	l := lab.New(t)
	w := &world{Lab: l}
	if lab.SubIDs.Available() {
		lab.NeedProgram(t, "newuidmap", "newgidmap")
		w.setUID = l.SetUID("newuidmap", "newgidmap")
		l.SubIDs("user:10000:50000\n")
	}
	// It has to go before its namespaces do.
	t.Cleanup(func() { w.wantNothingLeft(t) })
	w.session = l.Session()
	if slirp == "" {
		slirp = filepath.Join(l.Dir, "slirp4netns")
		if err := os.Symlink(l.TaprootPath(), slirp); err != nil {
			t.Fatal(err)
		}
	}
	w.user("mkdir", "-p", "home", "bin").MustRun()
	log := filepath.Join(l.Dir, "calls")
	wrapper := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s\nexec %s \"$@\"\n", log, slirp)
	w.script(t, "bin/slirp4netns", wrapper)
	w.web = serveWeb(t, l.Outside)
	for _, address := range []string{lab.Outside4, lab.Outside6} {
		if strings.Contains(address, ":") && !lab.IPv6.Available() {
			continue
		}
		serveDNS(t, l.Outside, address)
	}
	return w
}

// script writes an executable file below Dir.
func (w *world) script(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(w.Dir, name)
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// user is a command of the ordinary user.
func (w *world) user(name string, args ...string) *lab.Cmd {
	// The program itself is looked for in the PATH of the test, as the
	// command of [os/exec] is.
	c := w.session.Command("env", append([]string{name}, args...)...)
	c.Env = append(c.Env, "HOME="+filepath.Join(w.Dir, "home"), "LC_ALL=C",
		"PATH="+filepath.Join(w.Dir, "bin")+":"+w.setUID+":"+os.Getenv("PATH"))
	return c
}

// calls are the command lines with which slirp4netns was started, in order,
// with "ID" for what callers make up.
func (w *world) calls(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.Dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		lines = append(lines, madeUp().ReplaceAllString(strings.TrimSpace(line), "ID$1"))
	}
	return lines
}

// madeUp matches the names of podman's namespaces and containers, and process
// ids.
func madeUp() *regexp.Regexp {
	return regexp.MustCompile(`\b(?:[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{20,}|[0-9]+( tap0))\b`)
}

// wantCall wants slirp4netns to have been started like that last.
func (w *world) wantCall(t *testing.T, want string) {
	t.Helper()
	calls := w.calls(t)
	if got := calls[len(calls)-1]; got != want {
		t.Errorf("command line of slirp4netns: got %s, want %s", got, want)
	}
}

// wantNothingLeft waits for the end of everything that is called like the
// program under test.
func (w *world) wantNothingLeft(t *testing.T) {
	t.Helper()
	running := func() (left []string) {
		for _, p := range w.Processes() {
			if strings.Contains(p.Args, "slirp4netns") || strings.Contains(p.Args, "taproot-") || p.State == 'Z' {
				left = append(left, p.String())
			}
		}
		return left
	}
	if !t.Failed() {
		w.Eventually("the end of "+strings.Join(running(), ", "), func() bool { return running() == nil })
	}
}

// url is the address of a page of the web server on the outside.
func (w *world) url(host string) string {
	return fmt.Sprintf("http://%s/hello", net.JoinHostPort(host, fmt.Sprint(portOf(w.web.Addr()))))
}

// greeting is the page.
const greeting = "hello, guest"

// fetch is a command line that gets the page from the outside, by name.
func (w *world) fetch() string {
	return "curl -sS --max-time 40 -4 " + w.url("www.example.test")
}

// serveWeb starts a web server.
func serveWeb(t *testing.T, n *lab.Namespace) net.Listener {
	t.Helper()
	listener := n.Listen("tcp", ":0")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, greeting)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener)
	}()
	t.Cleanup(func() { server.Close(); <-done })
	return listener
}

// portOf is the port of a listener or packet socket.
func portOf(a net.Addr) int {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.Port
	case *net.UDPAddr:
		return a.Port
	default:
		return 0
	}
}

// wantText fails the test if got, without white space around it, is not want.
func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if got = strings.TrimSpace(got); got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// wantContains fails the test if a text lacks one of some parts.
func wantContains(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: got %q, want it to contain %q", what, got, part)
		}
	}
}

// wantShortcut wants connections of a client outside to take the shortcut, with
// its own address, where the program under test is ours and this machine has what
// it takes. The first ones may come before it is ready.
func (w *world) wantShortcut(t *testing.T, address string) {
	t.Helper()
	if w.original || !w.hasShortcut(t) {
		return
	}
	var peer netip.Addr
	w.Eventually("a connection to "+address+" by the shortcut", func() bool {
		var way string
		var err error
		peer, way, err = askFrom(w.Outside, "tcp", address)
		return err == nil && way == byShortcut
	})
	if peer.String() != lab.Outside4 {
		t.Errorf("by the shortcut the service at %s saw %v, want %s", address, peer, lab.Outside4)
	}
}

// hasShortcut tells whether this machine's kernel has what the shortcut needs.
func (w *world) hasShortcut(t *testing.T) bool {
	t.Helper()
	var check struct{ Results []probe.Result }
	if err := json.Unmarshal([]byte(w.user(w.TaprootPath(), "check", "--json").MustRun()), &check); err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(check.Results, func(r probe.Result) bool { return r.Name == "tproxy" && r.Status == probe.OK })
}

// wantPeer asks a service (see serveProgram) until it answers, and wants the
// client to look like one of some addresses.
func wantPeer(t *testing.T, from *lab.Namespace, network, address string, want ...string) {
	t.Helper()
	var got netip.Addr
	lab.Eventually(t, network+" service at "+address, func() (ok bool) {
		var err error
		got, err = whoAmI(from, network, address)
		return err == nil
	})
	if len(want) > 0 && !slices.Contains(want, got.String()) {
		t.Errorf("the %s service at %s saw %v, want %v", network, address, got, want)
	}
}
