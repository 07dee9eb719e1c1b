package userns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary plays all parts, by argv[0] or argv[1]: the test starts a
// supervisor, as an ordinary user; it starts stage and guard; the stage becomes
// a guest program of guest_test.go.
const (
	supervisorName = "taproot-supervisor"
	shellName      = "taproot-shell"
	guestArg       = "guest"
)

// markName is an environment variable that every process of one test has.
const markName = "TAPROOT_TEST_MARK"

func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == StageName:
		os.Exit(Stage())
	case os.Args[0] == supervisorName:
		os.Exit(supervise())
	case os.Args[0] == shellName:
		os.Exit(shell())
	case os.Args[0] == cellName:
		os.Exit(reportCell())
	case len(os.Args) > 2 && os.Args[1] == guestArg:
		os.Exit(guest(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// A script is what a supervisor process is told to do.
type script struct {
	Config Config
	Setup  Setup

	// Hold has the supervisor wait after Start until its descriptor 3 closes.
	Hold bool

	// Timeout ends Start's context.
	Timeout time.Duration

	// Rounds is how many guests are started, and closed again, before. The
	// supervisor complains if they leave descriptors or goroutines behind.
	Rounds int

	// Device is one of those that scripted knows.
	Device string

	// HostsLines makes Setup.Hosts of so many lines.
	HostsLines int
}

// hostsLine is one line of a block list.
const hostsLine = "0.0.0.0 advertisements.example\n"

func defaultScript(guestArgs ...string) script {
	return script{
		Config: Config{Command: guestCommand(guestArgs...)},
		Setup: Setup{
			Interface:  "tap0",
			MTU:        1400,
			MAC:        net.HardwareAddr{0x02, 0, 0, 1, 2, 3},
			Addresses:  []netip.Prefix{netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("fd00::64/64")},
			Routes:     defaultRoutes("10.0.2.2", "fd00::2"),
			ResolvConf: []byte("nameserver 10.0.2.3\n"),
			Hosts:      []byte("127.0.0.1 localhost\n10.0.2.2 host.taproot.internal\n"),
		},
	}
}

// defaultRoutes are the routes of everything through each gateway.
func defaultRoutes(gateways ...string) []Route {
	var routes []Route
	for _, s := range gateways {
		a := netip.MustParseAddr(s)
		routes = append(routes, Route{Destination: netip.PrefixFrom(a, 0).Masked(), Gateway: a})
	}
	return routes
}

// guestCommand is the command line of a guest program.
func guestCommand(args ...string) []string {
	return append([]string{selfExe, guestArg}, args...)
}

// withoutTime leaves the time out of log lines, so that tests can wait for them.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// supervise is the main of the supervisor process.
func supervise() int {
	var s script
	if err := json.Unmarshal([]byte(os.Getenv("TAPROOT_TEST_SCRIPT")), &s); err != nil {
		return complain(err)
	}
	if s.HostsLines > 0 {
		s.Setup.Hosts = []byte(strings.Repeat(hostsLine, s.HostsLines))
	}
	if os.Getenv("TAPROOT_TEST_DEBUG") != "" {
		s.Config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}))
	} else {
		s.Config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	ctx := context.Background()
	if s.Timeout > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
		defer cancel()
	}
	var err error
	if s.Setup.Device, err = scripted(ctx, s.Device); err != nil {
		return complain(err)
	}
	if err := rounds(ctx, s); err != nil {
		return complain(err)
	}
	g, err := Start(ctx, s.Config, s.Setup)
	if err != nil {
		return complain(err)
	}
	defer g.Close()
	f := g.Device()
	if f == nil {
		return complain(errors.New("device: got none"))
	}
	f.Close()
	if s.Hold {
		unix.CloseOnExec(3)
		os.NewFile(3, "hold").Read(make([]byte, 1))
	}
	if err := g.Go(); err != nil {
		return complain(err)
	}
	status, err := g.Wait()
	if err != nil {
		return complain(err)
	}
	return status
}

// rounds starts and ends guests at various points of their life.
func rounds(ctx context.Context, s script) error {
	count := func() (fds, goroutines int) {
		names, _ := os.ReadDir("/proc/self/fd")
		return len(names), runtime.NumGoroutine()
	}
	var fds, goroutines int
	for i := range s.Rounds {
		g, err := Start(ctx, s.Config, s.Setup)
		if err != nil {
			return err
		}
		if i%3 > 0 {
			err = g.Go()
		}
		if i%3 > 1 && err == nil {
			g.Kill()
			_, err = g.Wait()
		}
		if err := errors.Join(err, g.Close()); err != nil {
			return err
		}
		if i == 5 { // whatever starts once has started
			fds, goroutines = count()
		}
	}
	// A goroutine is counted for a moment after it has closed its channel.
	deadline := time.Now().Add(testTimeout)
	for {
		f, n := count()
		if s.Rounds == 0 || f <= fds && n <= goroutines {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %d guests: %d descriptors, %d goroutines; before %d, %d",
				s.Rounds, f, n, fds, goroutines)
		}
		runtime.Gosched()
	}
}

// complain prints an error as a front end would, and returns the status.
func complain(err error) int {
	fmt.Fprintf(os.Stderr, "taproot: %v\n", err)
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		fmt.Fprintf(os.Stderr, "taproot: hint: %s\n", hint.Hint())
	}
	var command *CommandError
	if errors.As(err, &command) {
		return command.Status()
	}
	return 125
}

// An account is the ordinary user that supervisors run as.
type account struct {
	uid, gid int
	root     bool // the test is root and must change to the account
}

// ordinary returns the caller, or an ordinary user if that is root: one with
// subordinate ids if there is one.
func ordinary(t testing.TB) account {
	t.Helper()
	if uid := os.Getuid(); uid != 0 {
		return account{uid: uid, gid: os.Getgid()}
	}
	b, _ := os.ReadFile(subUIDFile)
	for _, line := range strings.Split(string(b), "\n") {
		name, _, _ := strings.Cut(line, ":")
		u, err := user.Lookup(name)
		if err != nil || u.Uid == "0" {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		return account{uid, gid, true}
	}
	return account{65534, 65534, true}
}

// A supervised is a supervisor process that a test has started.
type supervised struct {
	t    *testing.T
	cmd  *exec.Cmd
	mark string
	out  *lines
	err  *lines
}

// newSupervisor prepares a supervisor, with a process group of its own.
func newSupervisor(t *testing.T, s script) *supervised {
	t.Helper()
	return newProcess(t, supervisorName, s, ordinary(t))
}

func newProcess(t *testing.T, name string, s script, as account) *supervised {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())
	p := &supervised{t: t, mark: mark, out: newLines(), err: newLines()}
	p.cmd = &exec.Cmd{
		Path: selfExe,
		Args: []string{name},
		Env: append(os.Environ(), "TAPROOT_TEST_SCRIPT="+string(b), markName+"="+mark,
			"GORACE=atexit_sleep_ms=0"), // or each process with -race takes a second to end
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		Stdout:      p.out,
		Stderr:      p.err,
		Dir:         "/",
	}
	if as.root {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(as.uid), Gid: uint32(as.gid)}
	}
	return p
}

// start starts the process and sees to it that nothing of it outlives the test.
func (p *supervised) start() {
	p.t.Helper()
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		for _, pid := range marked(p.mark) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		p.cmd.Wait()
		if p.t.Failed() {
			p.t.Logf("stdout: %s\nstderr: %s", p.out, p.err.String())
		}
	})
}

// wait waits for the exit status: 128+n if a signal ended the process.
func (p *supervised) wait() int {
	p.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.cmd.Wait()
	}()
	select {
	case <-done:
	case <-time.After(testTimeout):
		p.t.Fatalf("supervisor has not ended; stdout %s, stderr %s", p.out, p.err.String())
	}
	return exitStatus(p.cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// run starts the process and waits for it.
func (p *supervised) run() int {
	p.t.Helper()
	p.start()
	return p.wait()
}

// gone checks that no process of the test is left, and waits for it.
func (p *supervised) gone() {
	p.t.Helper()
	eventually(p.t, "no process left", func() bool { return len(marked(p.mark)) == 0 })
}

// testTimeout is far more than anything takes on a busy machine, where the 60
// guests of TestRounds take half a minute.
const testTimeout = 2 * time.Minute

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, testTimeout)
		}
		<-tick.C
	}
}

// marked returns the live processes that have the mark.
func marked(mark string) []int {
	var pids []int
	dir, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range dir {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && bytes.Contains(env, []byte(markName+"="+mark)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// lines collects a process's output and lets a test wait for a line.
type lines struct {
	mu sync.Mutex
	// +checklocks:mu
	text bytes.Buffer

	more chan struct{} // has a value when text is new
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1)} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.ReplaceAll(l.text.String(), "\r", "")
}

// count returns how many lines are equal to line.
func (l *lines) count(line string) int {
	n := 0
	for _, s := range strings.Split(l.String(), "\n") {
		if s == line {
			n++
		}
	}
	return n
}

// waitFor waits until n lines are equal to line.
func (l *lines) waitFor(t testing.TB, line string, n int) {
	t.Helper()
	timeout := time.After(testTimeout)
	for l.count(line) < n {
		select {
		case <-l.more:
		case <-timeout:
			t.Fatalf("line %q: got %d, want %d; output:\n%s", line, l.count(line), n, l)
		}
	}
}
