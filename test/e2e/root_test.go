package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"taproot/test/lab"
)

// TestSupervisorOfRoot starts taproot as root. It goes on with the capabilities that it
// needs, in all threads, and with these another engine can be started.
func TestSupervisorOfRoot(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "unshare")
	run := capabilitySet(unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN, unix.CAP_SETFCAP)
	t.Run("run", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		port := serveTCP(t, l.Outside, echo)
		s := startShell(t, ofRoot(l, "run", "--api=off", "--", "sh"))
		wantCapabilities(t, s.Process.Pid, run)
		old := process(t, l, engineName)
		if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		l.Eventually("another engine", func() bool { return process(t, l, engineName).PID != old.PID })
		wantText(t, "a new connection", s.must(program(l, "connect", join(lab.Outside4, port))), "connected")
	})
	t.Run("attach", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		serveEchoes(t, l.Outside, 81)
		target := l.Host.Command("unshare", "--net", "cat")
		in, err := target.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close() })
		target.MustStart()
		pid := target.Process.Pid
		l.Eventually("the target has its namespace", func() bool {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return err == nil && string(name) == "cat\n"
		})
		ready, w := pipe(t)
		c := ofRoot(l, "attach", "--api=off", "--ready-fd=3", "-p", "8080:80", strconv.Itoa(pid))
		c.ExtraFiles = []*os.File{w}
		c.MustStart()
		w.Close()
		if _, err := ready.Read(make([]byte, 1)); err != nil {
			t.Fatalf("not ready: %v", err)
		}
		wantCapabilities(t, c.Process.Pid, run|capabilitySet(unix.CAP_NET_ADMIN, unix.CAP_SYS_PTRACE))
		guest := l.NamespaceOf(pid, "guest")
		serveEchoes(t, guest, 80)
		wantCall(t, guest, "tcp", join(lab.Outside4, 81), "81 "+lab.Host4)
		wantCall(t, l.Host, "tcp", "127.0.0.1:8080", "80 "+gateway4)
	})
}

// ofRoot is taproot, started by the host's root.
func ofRoot(l *lab.Lab, args ...string) *lab.Cmd {
	c := l.Host.Command(l.TaprootPath(), args...)
	c.Env = append(c.Env, "TMPDIR="+tmpDir(l))
	return c
}

// capabilitySet returns a set as /proc/PID/status has it.
func capabilitySet(list ...uint) (set uint64) {
	for _, c := range list {
		set |= 1 << c
	}
	return set
}

// wantCapabilities wants each thread of a process to have these, in the end.
func wantCapabilities(t *testing.T, pid int, want uint64) {
	t.Helper()
	var got string
	if !eventually(func() bool {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task.Name()))
			if err != nil {
				continue // the thread has ended
			}
			for line := range strings.Lines(string(status)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
				if name != "CapEff" && name != "CapPrm" {
					continue
				}
				if set, err := strconv.ParseUint(value, 16, 64); err != nil || set != want {
					got = line
					return false
				}
			}
		}
		return true
	}) {
		t.Errorf("process %d: got %s, want %016x", pid, got, want)
	}
}
