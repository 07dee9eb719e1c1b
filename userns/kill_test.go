package userns

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Children in other sessions and user namespaces end with the command.
func TestFamilyEnds(t *testing.T) {
	for _, pid := range []bool{false, true} {
		t.Run(fmt.Sprintf("pid=%v", pid), func(t *testing.T) {
			s := defaultScript("family", "leave")
			s.Config.PID = pid
			p := newSupervisor(t, s)
			if got := p.run(); got != 0 {
				t.Errorf("status: got %d, want 0", got)
			}
			if left := marked(p.mark); len(left) > 0 { // at once
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// The role of a process, by its name and arguments.
func role(pid int) string {
	args := strings.Split(content(fmt.Sprintf("/proc/%d/cmdline", pid)), "\x00")
	switch {
	case args[0] == StageName && len(args) > 1:
		return args[1]
	case args[0] == selfExe && len(args) > 2:
		return args[2]
	}
	return args[0]
}

// parent returns a process's parent, or 0.
func parent(pid int) int {
	_, parent := statFields(pid)
	n, _ := strconv.Atoi(parent)
	return n
}

// state returns the letter of a process's state (proc_pid_stat(5)), "Z" if it has
// ended, or "" if there is none.
func state(pid int) string {
	state, _ := statFields(pid)
	return state
}

// statFields returns the third and the fourth field of a process's stat.
func statFields(pid int) (state, parent string) {
	stat := content(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return "", ""
	}
	return fields[0], fields[1]
}

// Whichever process is killed when everything runs, all others go.
func TestKillEach(t *testing.T) {
	for _, pid := range []bool{false, true} {
		for _, tt := range []struct {
			role string
			want int
		}{
			{supervisorName, 128 + 9},
			{witnessName, 125},
			{"family", 128 + 9},
			{stageRole, 128 + 9},
		} {
			if tt.role == stageRole && !pid {
				continue // it has become the command
			}
			t.Run(fmt.Sprintf("%s/pid=%v", tt.role, pid), func(t *testing.T) {
				s := defaultScript("family")
				s.Config.PID = pid
				p := newSupervisor(t, s)
				p.start()
				p.out.waitFor(t, "ready", 3)
				for _, member := range marked(p.mark) {
					if role(member) == tt.role {
						syscall.Kill(member, syscall.SIGKILL)
					}
				}
				if got := p.wait(); got != tt.want {
					t.Errorf("status: got %d, want %d", got, tt.want)
				}
				p.gone()
			})
		}
	}
}

// Whichever process is killed at whatever moment, nothing stays.
func TestKillAnytime(t *testing.T) {
	mounts := content("/proc/self/mountinfo")
	for i := range 60 {
		s := defaultScript("family")
		s.Config.PID = i%2 == 1
		p := newSupervisor(t, s)
		p.start()
		// Some 30 ms is from the first process to the last.
		<-time.After(time.Duration(rand.Int64N(int64(40 * time.Millisecond))))
		family := marked(p.mark)
		if len(family) == 0 {
			continue // not even the supervisor, yet: Start returns before exec
		}
		victim := family[rand.IntN(len(family))]
		what := role(victim)
		own := role(parent(victim)) == "family"
		late := state(victim) == "Z" // a child that lives for a millisecond
		if syscall.Kill(victim, syscall.SIGKILL) != nil {
			late = true
		}
		if own || late { // the command's child, or nobody: nothing follows
			p.cmd.Process.Kill()
		}
		status := p.wait()
		eventually(t, "killed "+what, func() bool { return len(marked(p.mark)) == 0 })
		t.Logf("killed %s of %d: status %d", what, len(family), status)
	}
	if after := content("/proc/self/mountinfo"); after != mounts {
		t.Errorf("mounts: got %q, want %q", after, mounts)
	}
}

// The guest goes too when the supervisor dies between Start and Go.
func TestKillBeforeGo(t *testing.T) {
	for _, pid := range []bool{false, true} {
		s := defaultScript("sleep")
		s.Config.PID, s.Hold = pid, true
		p := newSupervisor(t, s)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		p.cmd.ExtraFiles = []*os.File{r}
		p.start()
		r.Close()
		eventually(t, "supervisor, stage and guard", func() bool { return len(marked(p.mark)) == 3 })
		p.cmd.Process.Kill()
		p.wait()
		p.gone()
	}
}

// Process 1 reaps what its descendants leave behind.
func TestReaps(t *testing.T) {
	s := defaultScript("orphan")
	s.Config.PID = true
	p := newSupervisor(t, s)
	if got := p.run(); got != 0 {
		t.Errorf("status: got %d, want 0", got)
	}
	if got := p.out.count("alone true"); got != 1 {
		t.Errorf("output: got %s, want: alone true", p.out)
	}
}
