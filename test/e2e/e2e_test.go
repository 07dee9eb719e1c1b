package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

func TestMain(m *testing.M) {
	if os.Args[0] == engineName {
		os.Exit(oddEngine())
	}
	os.Exit(lab.Main(m, lab.Programs{
		"addresses":   addressesProgram,
		"churn":       churnProgram,
		"connect":     connectProgram,
		"cramped":     crampedProgram,
		"exhaust":     exhaustProgram,
		"in-flight":   inFlightProgram,
		"fds":         fdsProgram,
		"fewids":      fewIDsProgram,
		"clients":     clientsProgram,
		"flood":       floodProgram,
		"halfclose":   halfCloseProgram,
		"hold":        holdProgram,
		"many":        manyProgram,
		"nonetfilter": noNetfilterProgram,
		"pingpong":    pingPongProgram,
		"raw":         rawProgram,
		"refusing":    refusingProgram,
		"reset":       resetProgram,
		"spoof":       spoofProgram,
		"udp":         udpProgram,
		"stream":      streamProgram,
		"unread":      unreadProgram,
		"udperror":    udpErrorProgram,
		"udpports":    udpPortsProgram,
		"unixserver":  unixServerProgram,
	}))
}

// The guest's network, unless options say something else.
const (
	gateway4  = "10.0.2.2"
	resolver4 = "10.0.2.3"
	guest4    = "10.0.2.100"
	gateway6  = "fd00::2"
	resolver6 = "fd00::3"
	guest6    = "fd00::64"
)

// families are the two ways to reach the same servers.
var families = []struct {
	name, outside, second, gateway, resolver, guest, host, loopback string
	needs                                                           []lab.Feature
}{
	{"ipv4", lab.Outside4, lab.Second4, gateway4, resolver4, guest4, lab.Host4, "127.0.0.1", nil},
	{"ipv6", lab.Outside6, lab.Second6, gateway6, resolver6, guest6, lab.Host6, "::1", []lab.Feature{lab.IPv6}},
}

// variants are the options under which the bytes take different ways through
// taproot: with the kernel's offloads, without, and in large packets.
var variants = []struct {
	name    string
	options []string
}{
	{"offload", nil},
	{"plain", []string{"--offload=off"}},
	{"mtu9000", []string{"--mtu=9000"}},
	{"mtu65520", []string{"--mtu=65520"}},
	{"plain65520", []string{"--offload=off", "--mtu=65520"}},
}

// newLab makes a laboratory in which taproot can run, and checks at the end of
// the test that nothing is left of what ran there.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	lab.Need(t, lab.NetNS, lab.TUN)
	l := lab.New(t)
	before := mounts(t, l)
	t.Cleanup(func() {
		left := waitGone(l)
		for _, p := range left {
			t.Errorf("left behind: process %v", p)
		}
		if d := difference(mounts(t, l), before); d != "" {
			t.Errorf("left behind: mounts of the host:\n%s", d)
		}
		sweepSockets(t, l)
		for _, dir := range []string{tmpDir(l), runtimeDir(l)} {
			for _, name := range entries(t, dir) {
				t.Errorf("left behind: %s", filepath.Join(dir, name))
			}
		}
	})
	for _, dir := range []string{tmpDir(l), runtimeDir(l)} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := l.Give(dir); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// tmpDir and runtimeDir are where taproot may put files while it runs.
func tmpDir(l *lab.Lab) string     { return filepath.Join(l.Dir, "tmp") }
func runtimeDir(l *lab.Lab) string { return filepath.Join(l.Dir, "run") }

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range list {
		names = append(names, entry.Name())
	}
	return names
}

// sweepSockets removes the API sockets of instances that were killed, which the
// next instance or list of them would: tests end guests with SIGKILL.
func sweepSockets(t *testing.T, l *lab.Lab) {
	t.Helper()
	dir := filepath.Join(runtimeDir(l), "taproot")
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return
	}
	for _, name := range entries(t, dir) {
		path := filepath.Join(dir, name)
		if _, err := net.Dial("unix", path); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v, want %v", path, err, syscall.ECONNREFUSED)
			continue
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
}

// mounts are the mounts that the host sees.
func mounts(t *testing.T, l *lab.Lab) string {
	t.Helper()
	var text []byte
	err := l.Host.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/mountinfo")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// difference are the lines of after that before does not have.
func difference(after, before string) string {
	var more strings.Builder
	for line := range strings.Lines(after) {
		if !strings.Contains(before, line) {
			more.WriteString(line)
		}
	}
	return more.String()
}

// taproot is the program under test with arguments as written.
func taproot(l *lab.Lab, args ...string) *lab.Cmd {
	c := l.Taproot(args...)
	c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
	return c
}

// guest is a command in a guest with these options.
func guest(l *lab.Lab, options []string, command ...string) *lab.Cmd {
	args := append([]string{"run"}, options...)
	return taproot(l, append(append(args, "--"), command...)...)
}

// guestProgram is one of the test binary's own programs in a guest.
func guestProgram(l *lab.Lab, options []string, name string, args ...string) *lab.Cmd {
	return guest(l, options, l.ProgramArgs(name, args...)...)
}

// join is [net.JoinHostPort] for numbers.
func join(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// port is the port of a listener or packet socket.
func port(a net.Addr) int {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.Port
	case *net.UDPAddr:
		return a.Port
	default:
		return 0
	}
}

// url is the address of a web server.
func url(host string, listener net.Listener, path string) string {
	return "http://" + join(host, port(listener.Addr())) + path
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

// A shell is a guest that runs one command after the other.
type shell struct {
	*lab.Cmd
	t     *testing.T
	in    io.WriteCloser
	lines *bufio.Reader
}

// newShell starts a guest with a shell in it, which runs already when newShell
// returns.
func newShell(t *testing.T, l *lab.Lab, options ...string) *shell {
	t.Helper()
	return startShell(t, guest(l, options, "sh"))
}

// startShell is newShell for a command that is prepared.
func startShell(t *testing.T, c *lab.Cmd) *shell {
	t.Helper()
	guestIn, in := pipe(t)
	out, guestOut := pipe(t)
	c.Stdin, c.Stdout = guestIn, guestOut
	c.MustStart()
	guestIn.Close()
	guestOut.Close()
	s := &shell{Cmd: c, t: t, in: in, lines: bufio.NewReader(out)}
	s.do("true")
	return s
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

// with is the same shell for a subtest.
func (s *shell) with(t *testing.T) *shell {
	with := *s
	with.t = t
	return &with
}

// do runs a command line in the guest and returns its standard output and
// exit status.
func (s *shell) do(line string) (string, int) {
	s.t.Helper()
	const mark = "@@ "
	if _, err := fmt.Fprintf(s.in, "{ %s\n} </dev/null; status=$?; echo; echo '%s'$status\n", line, mark); err != nil {
		s.t.Fatalf("guest: %v", err)
	}
	var out strings.Builder
	for {
		text, err := s.lines.ReadString('\n')
		if err != nil {
			s.t.Fatalf("guest: %s: %v after %q", line, err, out.String())
		}
		var status int
		if _, err := fmt.Sscanf(text, mark+"%d", &status); err == nil {
			return strings.TrimSuffix(out.String(), "\n"), status
		}
		out.WriteString(text)
	}
}

// must is do for commands that have to succeed.
func (s *shell) must(line string) string {
	s.t.Helper()
	out, status := s.do(line)
	if status != 0 {
		s.t.Fatalf("guest: %s: status %d, output %q", line, status, out)
	}
	return out
}

// program is the command line of one of our own programs, for do.
func program(l *lab.Lab, name string, args ...string) string {
	return strings.Join(l.ProgramArgs(name, args...), " ")
}

// process finds the one process of the laboratory whose command line starts
// with name.
func process(t *testing.T, l *lab.Lab, name string) lab.Process {
	t.Helper()
	var found lab.Process
	lab.Eventually(t, "a process "+name, func() bool {
		for _, p := range l.Processes() {
			if strings.HasPrefix(p.Args, name) {
				found = p
				return true
			}
		}
		return false
	})
	return found
}
