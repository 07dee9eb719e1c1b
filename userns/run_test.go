package userns

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// report runs the guest program that reports, and returns what it sees.
func report(t *testing.T, p *supervised) facts {
	t.Helper()
	if status := p.run(); status != 0 {
		t.Fatalf("status: got %d, want 0", status)
	}
	var f facts
	if err := json.Unmarshal([]byte(p.out.String()), &f); err != nil {
		t.Fatal(err)
	}
	p.gone()
	return f
}

func TestIdentity(t *testing.T) {
	user := ordinary(t)
	one := func(inside, outside int) string { return fmt.Sprintf("%d %d 1", inside, outside) }
	const noCaps = "0000000000000000"
	for _, tt := range []struct {
		identity       Identity
		uid, gid       int
		uidMap, gidMap string
		setgroups      string
		ping           string
		allCaps        bool
	}{
		{IdentityRoot, 0, 0, one(0, user.uid), one(0, user.gid), "deny", "0 0", true},
		{IdentityKeep, user.uid, user.gid, one(user.uid, user.uid), one(user.gid, user.gid), "deny",
			fmt.Sprintf("%d %d", user.gid, user.gid), false},
	} {
		for _, pid := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/pid=%v", tt.identity, pid), func(t *testing.T) {
				s := defaultScript("report")
				s.Config.Identity, s.Config.PID = tt.identity, pid
				s.Config.IPC, s.Config.UTS = pid, pid
				f := report(t, newSupervisor(t, s))
				if f.UID != tt.uid || f.GID != tt.gid {
					t.Errorf("ids: got %d:%d, want %d:%d", f.UID, f.GID, tt.uid, tt.gid)
				}
				if f.UIDMap != tt.uidMap || f.GIDMap != tt.gidMap {
					t.Errorf("maps: got %q %q, want %q %q", f.UIDMap, f.GIDMap, tt.uidMap, tt.gidMap)
				}
				if f.Setgroups != tt.setgroups {
					t.Errorf("setgroups: got %s, want %s", f.Setgroups, tt.setgroups)
				}
				if all := f.CapEff != noCaps; all != tt.allCaps || f.CapInh != noCaps || f.CapAmb != noCaps {
					t.Errorf("capabilities: got %s, inheritable %s, ambient %s", f.CapEff, f.CapInh, f.CapAmb)
				}
				if f.PingRange != tt.ping {
					t.Errorf("ping range: got %q, want %q", f.PingRange, tt.ping)
				}
				checkNetwork(t, f)
				checkPID(t, f, pid)
			})
		}
	}
}

func checkPID(t *testing.T, f facts, own bool) {
	t.Helper()
	if f.ProcSelf != fmt.Sprint(f.PID) {
		t.Errorf("/proc/self: got %s, want %d", f.ProcSelf, f.PID)
	}
	// Process 1 and its threads come before the command.
	if own && (f.PID == 1 || f.PID > 50) {
		t.Errorf("process id: got %d, want a small one", f.PID)
	}
	if !own && f.PID <= 50 {
		t.Errorf("process id: got %d, want one of the host's", f.PID)
	}
}

func checkNetwork(t *testing.T, f facts) {
	t.Helper()
	if got, want := f.Links["tap0"], (link{1400, "02:00:00:01:02:03", true}); got != want {
		t.Errorf("tap0: got %v, want %v", got, want)
	}
	if !f.Links["lo"].Up {
		t.Error("lo is down")
	}
	for _, want := range []string{"0.0.0.0/0 via 10.0.2.2", "::/0 via fd00::2"} {
		if !slices.Contains(f.Routes, want) {
			t.Errorf("routes: got %q, want %q among them", f.Routes, want)
		}
	}
	// The flags are the fifth column: 0x40 is tentative. The kernel makes the
	// link-local address when it notices the carrier, which may be later.
	addresses := 0
	for _, line := range strings.Split(f.IfInet6, "\n") {
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[5] != "tap0" {
			continue
		}
		addresses++
		if fields[4] != "80" && fields[4] != "82" { // permanent, without detection
			t.Errorf("address %s: got flags %s, want 80 or 82", fields[0], fields[4])
		}
	}
	if addresses == 0 {
		t.Error("IPv6 addresses of tap0: got none")
	}
	if f.BindV6 != "" {
		t.Errorf("bind to the IPv6 address: %s", f.BindV6)
	}
}

func TestIdentityAuto(t *testing.T) {
	user := ordinary(t)
	sub, err := findSubordinates(user.uid)
	if err != nil {
		t.Skipf("no subordinate ids: %v", err)
	}
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skipf("no newuidmap: %v", err)
	}
	for _, pid := range []bool{false, true} {
		t.Run(fmt.Sprintf("pid=%v", pid), func(t *testing.T) {
			s := defaultScript("report")
			s.Config.Identity, s.Config.PID = IdentityAuto, pid
			f := report(t, newSupervisor(t, s))
			r := sub.uids[0]
			if want := fmt.Sprintf("0 %d 1, 1 %d %d", user.uid, r.start, r.count); !strings.HasPrefix(f.UIDMap, want) {
				t.Errorf("uid map: got %q, want %q", f.UIDMap, want)
			}
			if f.UID != 0 || f.GID != 0 || f.Setgroups != "allow" {
				t.Errorf("got ids %d:%d, setgroups %s, want 0:0, allow", f.UID, f.GID, f.Setgroups)
			}
			if want := pingRange(IdentityAuto, user.gid, sub.gids); f.PingRange != want || want == "0 0" {
				t.Errorf("ping range: got %q, want %q", f.PingRange, want)
			}
			if f.CapInh != "0000000000000000" {
				t.Errorf("inheritable capabilities: got %s, want none", f.CapInh)
			}
			checkNetwork(t, f)
			checkPID(t, f, pid)
		})
	}
}

func TestAsRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	for _, identity := range []Identity{IdentityRoot, IdentityKeep} {
		t.Run(identity.String(), func(t *testing.T) {
			s := defaultScript("report")
			s.Config.Identity = identity
			f := report(t, newProcess(t, supervisorName, s, account{}))
			if f.UIDMap != "0 0 1" || f.UID != 0 {
				t.Errorf("got uid %d, map %q, want 0, 0 0 1", f.UID, f.UIDMap)
			}
			checkNetwork(t, f)
		})
	}
}

func TestFiles(t *testing.T) {
	before := content("/etc/resolv.conf") + content("/etc/hosts")
	mounts := content("/proc/self/mountinfo")
	s := defaultScript("report")
	f := report(t, newSupervisor(t, s))
	if f.ResolvConf != string(s.Setup.ResolvConf) || f.Hosts != string(s.Setup.Hosts) {
		t.Errorf("got %q and %q, want %q and %q", f.ResolvConf, f.Hosts, s.Setup.ResolvConf, s.Setup.Hosts)
	}
	if after := content("/etc/resolv.conf") + content("/etc/hosts"); after != before {
		t.Errorf("host's files: got %q, want %q", after, before)
	}
	if after := content("/proc/self/mountinfo"); after != mounts {
		t.Errorf("host's mounts: got %q, want %q", after, mounts)
	}
	if got := strings.Count(f.Mounts, " - tmpfs tmpfs"); strings.Contains(f.Mounts, " /tmp rw,nosuid,nodev,noexec") {
		t.Errorf("scratch is still mounted; %d tmpfs mounts: %s", got, f.Mounts)
	}

	s.Setup.ResolvConf, s.Setup.Hosts = nil, []byte{}
	f = report(t, newSupervisor(t, s))
	if f.ResolvConf != content("/etc/resolv.conf") || f.Hosts != "" {
		t.Errorf("got %q and %q, want the host's resolv.conf and an empty hosts", f.ResolvConf, f.Hosts)
	}
}

func TestLargeHosts(t *testing.T) {
	s := defaultScript("report")
	s.HostsLines = 200_000 // 6 MB, more than a packet and a socket's buffer hold
	f := report(t, newSupervisor(t, s))
	if want := strings.Repeat(hostsLine, s.HostsLines); f.Hosts != want {
		t.Errorf("hosts: got %d bytes, want %d", len(f.Hosts), len(want))
	}
}

func TestIPv4Only(t *testing.T) {
	s := defaultScript("report")
	s.Setup.Addresses, s.Setup.Routes = s.Setup.Addresses[:1], s.Setup.Routes[:1]
	f := report(t, newSupervisor(t, s))
	if strings.Contains(f.IfInet6, "tap0") {
		t.Errorf("tap0 has an IPv6 address: %s", f.IfInet6)
	}
}

func TestDown(t *testing.T) {
	s := defaultScript("report")
	s.Setup.Down = true
	f := report(t, newSupervisor(t, s))
	if lo, tap := f.Links["lo"], f.Links["tap0"]; !lo.Up || tap.Up || tap.MAC == "" {
		t.Errorf("got lo %+v, tap0 %+v, want lo up and tap0 down", lo, tap)
	}
}

func TestHostname(t *testing.T) {
	s := defaultScript("report")
	s.Config.UTS, s.Config.Hostname = true, "inside.example"
	if f := report(t, newSupervisor(t, s)); f.Hostname != s.Config.Hostname {
		t.Errorf("got %q, want %q", f.Hostname, s.Config.Hostname)
	}
}

func TestSysClassNet(t *testing.T) {
	f := report(t, newSupervisor(t, defaultScript("report")))
	want := []string{"lo", "peer0", "tap0"}
	if slices.Contains(f.SysNet, "tap0") && !slices.Equal(f.SysNet, want) {
		t.Errorf("/sys/class/net: got %v, want %v", f.SysNet, want)
	}
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, dir + "/.."} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	plain, script := dir+"/plain", dir+"/script"
	os.WriteFile(plain, []byte("text"), 0o644)
	os.WriteFile(script, []byte("exit 9\n"), 0o755)
	for _, tt := range []struct {
		name    string
		command []string
		want    int
		stderr  string
	}{
		{"zero", guestCommand("exit", "0"), 0, ""},
		{"some", guestCommand("exit", "42"), 42, ""},
		{"255", guestCommand("exit", "255"), 255, ""},
		{"killed", guestCommand("die", "9"), 128 + 9, ""},
		{"terminated", guestCommand("die", "15"), 128 + 15, ""},
		{"path", []string{"sh", "-c", "exit 3"}, 3, ""},
		{"no format", []string{script}, 9, ""},
		{"missing", []string{"no-such-command-here"}, 127, "no-such-command-here: not found"},
		{"missing path", []string{"/no/such/command"}, 127, "/no/such/command: not found"},
		{"under a file", []string{plain + "/x"}, 127, "not a directory"},
		{"not executable", []string{plain}, 126, "permission denied"},
		{"directory", []string{dir}, 126, "is a directory"},
		{"empty", []string{""}, 127, "not found"},
	} {
		for _, pid := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/pid=%v", tt.name, pid), func(t *testing.T) {
				s := defaultScript()
				s.Config.Command, s.Config.PID = tt.command, pid
				p := newSupervisor(t, s)
				if got := p.run(); got != tt.want {
					t.Errorf("status: got %d, want %d", got, tt.want)
				}
				if !strings.Contains(p.err.String(), tt.stderr) || tt.stderr == "" && p.err.String() != "" {
					t.Errorf("stderr: got %q, want %q", p.err.String(), tt.stderr)
				}
				p.gone()
			})
		}
	}
}

func TestStartErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*script)
		want   string
	}{
		{"no command", func(s *script) { s.Config.Command = nil }, "config: command: none"},
		{"hostname", func(s *script) { s.Config.Hostname = "x" }, "config: hostname: needs a UTS namespace"},
		{"no directory", func(s *script) { s.Config.Dir = "/no/such/dir" }, "chdir /no/such/dir"},
		{"no device", func(s *script) { s.Device = "missing" },
			"open /dev/net/tun: no such file or directory\ntaproot: hint: as root: modprobe tun\n"},
		{"gateway", func(s *script) { s.Setup.Routes = defaultRoutes("8.8.8.8") },
			"tap0: default route via 8.8.8.8: network is unreachable"},
		{"mtu", func(s *script) { s.Setup.MTU = -5 }, "tap0: mtu -5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := defaultScript("exit", "0")
			tt.change(&s)
			p := newSupervisor(t, s)
			if got := p.run(); got != 125 {
				t.Errorf("status: got %d, want 125", got)
			}
			if !strings.Contains(p.err.String(), tt.want) {
				t.Errorf("stderr: got %q, want %q", p.err.String(), tt.want)
			}
			p.gone()
		})
	}
}

func TestEnvironment(t *testing.T) {
	s := defaultScript("report")
	s.Config.Dir = "/usr"
	s.Config.Env = []string{"A=1", "PATH=/nowhere"}
	f := report(t, newSupervisor(t, s))
	if f.Dir != "/usr" || !slices.Equal(f.Env, s.Config.Env) {
		t.Errorf("got directory %s, environment %q, want /usr, %q", f.Dir, f.Env, s.Config.Env)
	}
}

// A guest may have guests; when user namespaces are not allowed, the error says
// what to do.
func TestNested(t *testing.T) {
	p := newSupervisor(t, defaultScript("nested"))
	if got := p.run(); got != 5 {
		t.Errorf("status: got %d, want 5", got)
	}
	p.gone()
	p = newSupervisor(t, defaultScript("nested", "0"))
	if got := p.run(); got != 125 {
		t.Errorf("status: got %d, want 125", got)
	}
	want := "taproot: make user namespace: no space left on device\n" +
		"taproot: hint: as root: sysctl user.max_user_namespaces=15000\n"
	if got := p.err.String(); got != want {
		t.Errorf("stderr: got %q, want %q", got, want)
	}
	p.gone()
}

func TestNoMapper(t *testing.T) {
	if _, err := findSubordinates(ordinary(t).uid); err != nil {
		t.Skipf("no subordinate ids: %v", err)
	}
	s := defaultScript("exit", "0")
	s.Config.Identity = IdentityAuto
	p := newSupervisor(t, s)
	p.cmd.Env = append(p.cmd.Env, "PATH=/nowhere")
	if got := p.run(); got != 125 {
		t.Errorf("status: got %d, want 125", got)
	}
	if got, want := p.err.String(), "hint: as root: apt-get install uidmap\n"; !strings.HasSuffix(got, want) {
		t.Errorf("stderr: got %q, want %q", got, want)
	}
	p.gone()
}

// A context that ends undoes everything.
func TestStartContext(t *testing.T) {
	bothModes(t, func(t *testing.T, pid bool) {
		s := defaultScript("exit", "0")
		s.Config.PID = pid
		s.Device = "slow"
		s.Timeout = 50 * time.Millisecond
		p := newSupervisor(t, s)
		if got := p.run(); got != 125 {
			t.Errorf("status: got %d, want 125", got)
		}
		if want := context.DeadlineExceeded.Error(); !strings.Contains(p.err.String(), want) {
			t.Errorf("stderr: got %q, want %q", p.err.String(), want)
		}
		if left := marked(p.mark); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
}

// Guests leave no descriptors and goroutines in the supervisor.
func TestRounds(t *testing.T) {
	bothModes(t, func(t *testing.T, pid bool) {
		s := defaultScript("exit", "0")
		s.Config.PID, s.Rounds = pid, 60
		p := newSupervisor(t, s)
		if got := p.run(); got != 0 {
			t.Errorf("status: got %d, want 0", got)
		}
	})
}

// The command has 0, 1, 2 and what the caller passed, under their numbers.
func TestDescriptors(t *testing.T) {
	for _, pid := range []bool{false, true} {
		t.Run(fmt.Sprintf("pid=%v", pid), func(t *testing.T) {
			s := defaultScript("report")
			s.Config.PID = pid
			p := newSupervisor(t, s)
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			// 3 and 5 to 40 are free, 4 and 41 are passed, and what the test
			// itself was started with above that.
			p.cmd.ExtraFiles = make([]*os.File, 39)
			p.cmd.ExtraFiles[1], p.cmd.ExtraFiles[38] = null, null
			want := []int{0, 1, 2, 4, 41}
			for fd := range descriptors() {
				if fd > 41 {
					want = append(want, fd)
				}
			}
			f := report(t, p)
			got := slices.Sorted(maps.Keys(f.Descriptors))
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("descriptors: got %v, want %v", f.Descriptors, want)
			}
			if f.Descriptors[4] != os.DevNull || f.Descriptors[41] != os.DevNull {
				t.Errorf("descriptors 4 and 41: got %v, want %s", f.Descriptors, os.DevNull)
			}
		})
	}
}

// Go's runtime raises the soft limit; the command gets the caller's.
func TestFileLimit(t *testing.T) {
	const want = 321
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	lower := syscall.Rlimit{Cur: want, Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	for _, pid := range []bool{false, true} {
		s := defaultScript("report")
		s.Config.PID = pid
		if f := report(t, newSupervisor(t, s)); f.FileLimit != want {
			t.Errorf("pid=%v: limit: got %d, want %d", pid, f.FileLimit, want)
		}
	}
}
