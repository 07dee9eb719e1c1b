package userns

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// sentinels sends two signals to the supervisor, one after the other, and waits
// until the guest has them. What the supervisor got before, it has passed on by
// then: Go's runtime hands signals over in batches, so one is not enough.
func sentinels(p *supervised) {
	p.t.Helper()
	for range 2 {
		n := p.out.count("got 10")
		p.cmd.Process.Signal(syscall.SIGUSR1)
		p.out.waitFor(p.t, "got 10", n+1)
	}
}

// finish ends guestSignals and guestStop.
func finish(p *supervised, want int) {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGUSR2)
	if got := p.wait(); got != want {
		p.t.Errorf("status: got %d, want %d", got, want)
	}
	p.gone()
}

// A signal reaches the command once, whether it is sent to the supervisor or to
// its process group.
func TestSignals(t *testing.T) {
	signals := []syscall.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT,
	}
	for _, pid := range []bool{false, true} {
		t.Run(fmt.Sprintf("pid=%v", pid), func(t *testing.T) {
			s := defaultScript("signals")
			s.Config.PID = pid
			p := newSupervisor(t, s)
			p.start()
			p.out.waitFor(t, "ready", 1)
			for i, target := range []int{p.cmd.Process.Pid, -p.cmd.Process.Pid, p.cmd.Process.Pid} {
				for _, sig := range signals {
					if err := syscall.Kill(target, sig); err != nil {
						t.Fatal(err)
					}
					p.out.waitFor(t, fmt.Sprintf("got %d", sig), i+1)
					sentinels(p)
					if got := p.out.count(fmt.Sprintf("got %d", sig)); got != i+1 {
						t.Errorf("signal %d to %d: got it %d times, want %d", sig, target, got, i+1)
					}
				}
			}
			finish(p, 0)
		})
	}
}

// A group's signal is not mistaken for one to the supervisor alone, however the
// kernel interleaves the two processes.
func TestGroupSignalsOnce(t *testing.T) {
	p := newSupervisor(t, defaultScript("signals"))
	log := newLines()
	p.cmd.Env = append(p.cmd.Env, "TAPROOT_TEST_DEBUG=1")
	p.cmd.Stderr = log
	p.start()
	p.out.waitFor(t, "ready", 1)
	const n = 300
	for i := range n {
		if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		p.out.waitFor(t, "got 2", i+1)
		// No sentinel tells that the supervisor has handled it: the thread that
		// took the signal may not run for a while. A second one meanwhile would
		// rightly be taken for two, of which the guard knows one.
		log.waitFor(t, "level=DEBUG msg=signal number=2 group=true", i+1)
	}
	sentinels(p)
	if got := p.out.count("got 2"); got != n {
		t.Errorf("got it %d times, want %d", got, n)
	}
	finish(p, 0)
}

// What the caller ignores stays ignored in the command, and nothing else does.
func TestIgnored(t *testing.T) {
	for _, tt := range []struct {
		trap string
		want string
	}{
		{"", "0000000000000000"},
		{"trap '' HUP;", "0000000000000001"},
		{"trap '' HUP INT TSTP TTIN TTOU;", "0000000000380003"},
	} {
		for _, pid := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s pid=%v", tt.trap, pid), func(t *testing.T) {
				s := defaultScript("report")
				s.Config.PID = pid
				p := newSupervisor(t, s)
				// The test binary is not in a place that everybody can reach,
				// so the shell runs it by descriptor.
				self, err := os.Open(selfExe)
				if err != nil {
					t.Fatal(err)
				}
				defer self.Close()
				bash, err := exec.LookPath("bash") // dash has no exec -a
				if err != nil {
					t.Skip(err)
				}
				p.cmd.ExtraFiles = []*os.File{self}
				p.cmd.Path = bash
				p.cmd.Args = []string{bash, "-c", tt.trap + " exec -a " + supervisorName + " /proc/self/fd/3"}
				f := report(t, p)
				if ignored := withoutLibc(t, f.SigIgn); ignored != tt.want || strings.Trim(f.SigBlk, "0") != "" {
					t.Errorf("got ignored %s, blocked %s, want %s, none", f.SigIgn, f.SigBlk, tt.want)
				}
			})
		}
	}
}

// withoutLibc takes signals 32 and 33 out of a mask as /proc prints it. glibc
// keeps them to itself, and its posix_spawn(3), by which make starts its
// commands, leaves them ignored.
func withoutLibc(t *testing.T, mask string) string {
	t.Helper()
	m, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%016x", m&^(1<<31|1<<32))
}
