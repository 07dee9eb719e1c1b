package e2e

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// noNetfilterProgram COMMAND... runs a command to which the kernel has no
// netfilter: sockets to configure it are refused as a kernel without it does.
// It does not run in a guest but instead of one.
func noNetfilterProgram(args []string) int {
	if err := refuseNetfilter(); err != nil {
		return quit(err)
	}
	return quit(syscall.Exec(args[0], args, syscall.Environ()))
}

// refuseNetfilter makes socket(AF_NETLINK, ..., NETLINK_NETFILTER) fail for this
// process, which has only the calling thread to go on with, and all that it
// starts.
func refuseNetfilter() error {
	const (
		atNumber   = 0       // struct seccomp_data
		atFamily   = 16      // args[0], the low half on little-endian machines
		atProtocol = 16 + 16 // args[2]
	)
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	filter := []unix.SockFilter{
		load(atNumber), unless(unix.SYS_SOCKET, 5),
		load(atFamily), unless(unix.AF_NETLINK, 3),
		load(atProtocol), unless(unix.NETLINK_NETFILTER, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}

// TestShortcutMissing: where the kernel does not let us make a shortcut, TCP goes
// by frames and the reason is told once; who insists on it gets an error.
func TestShortcutMissing(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(t *testing.T, l *lab.Lab)
		before  []string // words of a program that starts taproot
		why     string
		hint    string
	}{
		{"no nf_tables", func(*testing.T, *lab.Lab) {}, []string{"nonetfilter"}, "this kernel has no nf_tables", "modprobe"},
		{"read-only sysctls", readOnlySysctls, nil, "accept_local to 1, which is 0: read-only file system", "unmask=ALL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			needTProxy(t, l)
			tt.prepare(t, l)
			port := serveTCP(t, l.Outside, echo)
			run := func(options ...string) *lab.Cmd {
				c := guestProgram(l, options, "connect", join(lab.Outside4, port), join(lab.Outside4, 9))
				if tt.before != nil {
					words := l.ProgramArgs(tt.before[0], c.Args...)
					c = l.User(words[0], words[1:]...)
					c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
				}
				return c
			}
			auto := run("-v")
			wantText(t, "connect", auto.MustRun(), "connected\nECONNREFUSED")
			if n := strings.Count(auto.Err(), tt.why); n != 1 {
				t.Errorf("auto: %q in the log: got %d times, want once:\n%s", tt.why, n, auto.Err())
			}
			on := run("--shortcut=on").MustStart()
			if got := on.Status(); got != 125 {
				t.Errorf("on: status: got %d, want 125", got)
			}
			wantContains(t, "on: message", on.Err(), tt.why)
			wantContains(t, "on: hint", on.Err(), "taproot: hint: ")
			wantContains(t, "on: hint", on.Err(), tt.hint)
		})
	}
}

// readOnlySysctls makes those of networks read-only for the host, as container
// engines do.
func readOnlySysctls(t *testing.T, l *lab.Lab) {
	t.Helper()
	const dir = "/proc/sys/net"
	err := l.Host.Do(func() error {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
		return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Host.Do(func() error { return unix.Unmount(dir, unix.MNT_DETACH) }) })
}

// TestShortcutOff: who does not want it has nothing of it in the namespace.
func TestShortcutOff(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "nft", "ip")
	l := newLab(t)
	s := newShell(t, l, "--shortcut=off")
	if got := s.must("nft list ruleset"); strings.TrimSpace(got) != "" {
		t.Errorf("rules: got %s, want none", got)
	}
	if got := s.must("ip rule; ip -6 rule"); strings.Contains(got, "fwmark") {
		t.Errorf("routing rules: got %s, want only the kernel's", got)
	}
	newPlayIn(t, l, networkOf(t, l, s)).wantWay(byFrames)
}

// footprint is what a shortcut may leave behind in a namespace.
const footprint = `nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all type local;
	ip neigh show nud permanent; ss -Hltn; cat /proc/sys/net/ipv4/tcp_early_demux /proc/sys/net/ipv4/conf/lo/*`

// TestShortcutRemoved: when taproot leaves a namespace that stays, nothing of the
// shortcut stays in it; and somebody else's namespace gets it only when told. What
// a killed one has left behind, whose executor was killed too, is in nobody's way and
// goes with the next.
func TestShortcutRemoved(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "nft", "ip", "ss", "unshare", "nsenter")
	l := newLab(t)
	needTProxy(t, l)
	session := l.Session()
	holder := session.Command("unshare", "--user", "--map-root-user", "--net", "cat")
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	holder.MustStart()
	pid := holder.Process.Pid
	l.Eventually("the namespace's process runs", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return err == nil && string(name) == "cat\n"
	})
	guest := l.NamespaceOf(pid, "guest")
	guest.SetUp("lo")
	look := func() string { return guest.Command("sh", "-c", footprint).MustRun() }
	before := look()
	for _, tt := range []struct {
		option, way string
		signal      syscall.Signal
	}{
		{"auto", byShortcut, syscall.SIGTERM},
		{"off", byFrames, syscall.SIGTERM},
		{"on", byShortcut, syscall.SIGKILL},
		{"off", byFrames, syscall.SIGKILL}, // among what the one before has left
		{"on", byShortcut, syscall.SIGTERM},
	} {
		c := attachTo(t, l, session, pid, tt.option)
		newPlayIn(t, l, guest).wantWay(tt.way)
		if tt.signal == syscall.SIGKILL && tt.way == byShortcut {
			killExecutor(t, l) // which would leave nothing
		}
		c.Signal(tt.signal)
		c.Wait()
		l.Eventually("the device is gone", func() bool { return !strings.Contains(guest.Command("ip", "link").MustRun(), "tap0") })
		if tt.signal == syscall.SIGKILL {
			continue
		}
		ended := time.Now()
		l.Eventually("everything is as it was", func() bool { return look() == before || gaveUp(t, ended, look, before) })
	}
}

// attachTo attaches taproot to the namespaces of a process and waits until it is
// ready.
func attachTo(t *testing.T, l *lab.Lab, session *lab.Session, pid int, shortcut string) *lab.Cmd {
	t.Helper()
	ready, w := pipe(t)
	c := session.Command(l.TaprootPath(), "attach", "--ready-fd=3", "--shortcut="+shortcut, strconv.Itoa(pid))
	c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
	c.ExtraFiles = []*os.File{w}
	c.MustStart()
	w.Close()
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		t.Fatalf("--shortcut=%s: not ready: %v", shortcut, err)
	}
	return c
}
