package userns

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// userEnv is set in a test binary that runs as an ordinary user.
const userEnv = "TAPROOT_TEST_USER"

// asUser returns true in a process of an ordinary user. In one of root it runs
// the test again as such a user and returns false.
func asUser(t *testing.T) bool {
	t.Helper()
	user := ordinary(t)
	if !user.root {
		return true
	}
	again(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user.uid), Gid: uint32(user.gid)}})
	return false
}

// again runs the test in a process of its own.
func again(t *testing.T, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command(selfExe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	// The race detector would wait a second at the end of each process.
	cmd.Env = append(os.Environ(), userEnv+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("in a process of its own: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	default:
		t.Logf("%s", out)
	}
}

// A target is a process in namespaces of its own.
type target struct {
	*exec.Cmd
	pid int
}

// newTarget starts a process as attr says, and ends it with the test.
func newTarget(t testing.TB, attr *syscall.SysProcAttr) target {
	t.Helper()
	attr.Pdeathsig = 0
	cmd := exec.Command(selfExe, guestArg, "sleep")
	cmd.SysProcAttr = attr
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // it runs
		t.Fatal(err)
	}
	return target{cmd, cmd.Process.Pid}
}

// rootTarget is the attribute of a process that is root in a user and a network
// namespace.
func rootTarget() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: singleMap(0, os.Getuid()),
		GidMappings: singleMap(0, os.Getgid()),
	}
}

// attachSetup is what the tests make in namespaces.
func attachSetup() Setup {
	return Setup{
		Interface: "tap0",
		MTU:       1400,
		MAC:       net.HardwareAddr{0x02, 0, 0, 1, 2, 3},
		Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.0.2.100/24"), netip.MustParsePrefix("10.1.0.1/32"),
			netip.MustParsePrefix("fd00::64/64"), netip.MustParsePrefix("fd01::64/64"),
		},
		Routes: []Route{
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.2.2"), Metric: 100},
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.0.2.1"), OnLink: true, Metric: 200},
			{Destination: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("10.8.0.1")},
			{Destination: netip.MustParsePrefix("10.8.0.0/16")},
			{Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00::2")},
			{Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1"), Metric: 2000},
			{Destination: netip.MustParsePrefix("fd02::/64")},
		},
		Device: json.RawMessage(`{"a":1}`),
	}
}

func TestAttach(t *testing.T) {
	if !asUser(t) {
		return
	}
	target := newTarget(t, rootTarget())
	n, err := OpenTarget(Target{PID: target.pid})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	f, report, warnings, err := n.Attach(context.Background(), attachSetup())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(warnings) > 0 || string(report) != `{"a":1}` {
		t.Errorf("got report %s and warnings %q", report, warnings)
	}
}
