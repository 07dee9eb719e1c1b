package userns

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// shell is the main of a process that does what an interactive shell does with
// one job: it gives it the terminal, takes the terminal back when the job
// stops, and continues it when told "fg" on descriptor 3. It tells what happens
// on descriptor 4.
func shell() int {
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	tell := os.NewFile(4, "tell")
	signal.Ignore(syscall.SIGTTOU)
	pid, err := syscall.ForkExec(selfExe, []string{supervisorName}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: true, Ctty: 0},
	})
	if err != nil {
		return complain(err)
	}
	words := bufio.NewScanner(os.NewFile(3, "words"))
	for {
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &ws, syscall.WUNTRACED, nil); err != nil {
			return complain(err)
		}
		if !ws.Stopped() {
			fmt.Fprintf(tell, "exit %d\n", exitStatus(ws))
			return 0
		}
		unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, unix.Getpgrp())
		fmt.Fprintf(tell, "stopped %d\n", ws.StopSignal())
		if !words.Scan() {
			return 1
		}
		unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, pid)
		syscall.Kill(-pid, syscall.SIGCONT)
	}
}

// A terminal is a pseudo-terminal with a shell that runs one supervisor on it.
type terminal struct {
	*supervised
	keys *os.File // the terminal's keyboard
	told *lines   // what the shell tells
	word *os.File // what the shell is told
}

// newTerminal starts a shell and a guest.
func newTerminal(t *testing.T, s script) *terminal {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { ptmx.Close() })
	var n int
	control(t, ptmx, func(fd int) (err error) {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	pts, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pts.Close()
	wordR, wordW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer wordR.Close()
	tellR, tellW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer tellW.Close()
	t.Cleanup(func() { wordW.Close() })
	p := newProcess(t, shellName, s, ordinary(t))
	term := &terminal{supervised: p, keys: ptmx, told: newLines(), word: wordW}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = pts, pts, pts
	p.cmd.ExtraFiles = []*os.File{wordR, tellW}
	p.cmd.SysProcAttr.Setpgid = false
	p.cmd.SysProcAttr.Setsid = true
	p.cmd.SysProcAttr.Setctty = true
	p.start()
	go copyLines(p.out, ptmx)
	go copyLines(term.told, tellR)
	return term
}

// control calls f with a descriptor that stays non-blocking.
func control(t *testing.T, file *os.File, f func(fd int) error) {
	t.Helper()
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil || result != nil {
		t.Fatal(err, result)
	}
}

// copyLines ends when the terminal or pipe does.
func copyLines(to *lines, from *os.File) {
	defer from.Close()
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		to.Write(b[:n])
	}
}

// supervisorPID finds the supervisor among the terminal's processes.
func (p *terminal) supervisorPID() int {
	for _, pid := range marked(p.mark) {
		if role(pid) == supervisorName {
			return pid
		}
	}
	p.t.Fatal("no supervisor")
	return 0
}

// sentinels is like the function for a supervisor without a terminal.
func (p *terminal) sentinels() {
	p.t.Helper()
	pid := p.supervisorPID()
	for range 2 {
		n := p.out.count("got 10")
		syscall.Kill(pid, syscall.SIGUSR1)
		p.out.waitFor(p.t, "got 10", n+1)
	}
}

// finish ends the guest and checks its status.
func (p *terminal) finish(want int) {
	p.t.Helper()
	syscall.Kill(p.supervisorPID(), syscall.SIGUSR2)
	p.told.waitFor(p.t, fmt.Sprintf("exit %d", want), 1)
	p.gone()
}

func bothModes(t *testing.T, f func(t *testing.T, pid bool)) {
	for _, pid := range []bool{false, true} {
		t.Run(fmt.Sprintf("pid=%v", pid), func(t *testing.T) { f(t, pid) })
	}
}

// What is typed reaches the command once, and so does what is sent to the
// supervisor from elsewhere.
func TestTerminalSignals(t *testing.T) {
	bothModes(t, func(t *testing.T, pid bool) {
		s := defaultScript("signals")
		s.Config.PID = pid
		p := newTerminal(t, s)
		p.out.waitFor(t, "ready", 1)
		want := map[int]int{}
		check := func(what string, sig int) {
			t.Helper()
			want[sig]++
			line := fmt.Sprintf("got %d", sig)
			// The terminal echoes what is typed, as ^C, without a new line.
			p.eventualLines(line, want[sig])
			p.sentinels()
			if got := p.countSuffix(line); got != want[sig] {
				t.Errorf("%s: got %q %d times, want %d", what, line, got, want[sig])
			}
		}
		for range 5 {
			p.keys.Write([]byte{'C' - '@'})
			check("^C", 2)
			syscall.Kill(p.supervisorPID(), syscall.SIGINT)
			check("kill -INT", 2)
			p.keys.Write([]byte{'\\' - '@'})
			check("^\\", 3)
			p.keys.Write([]byte{'Z' - '@'})
			check("^Z, caught", 20)
			resize(t, p.keys, 100+want[28])
			check("resize", 28)
		}
		p.finish(0)
	})
}

// countSuffix counts lines that end so.
func (p *terminal) countSuffix(line string) int {
	n := 0
	for _, s := range strings.Split(p.out.String(), "\n") {
		if strings.HasSuffix(s, line) {
			n++
		}
	}
	return n
}

func (p *terminal) eventualLines(line string, n int) {
	p.t.Helper()
	eventually(p.t, line, func() bool { return p.countSuffix(line) >= n })
}

func resize(t *testing.T, f *os.File, columns int) {
	t.Helper()
	size := &unix.Winsize{Row: 24, Col: uint16(columns)}
	control(t, f, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// state returns the state letter of each process with that role.
func (p *terminal) state(name string) string {
	var states string
	for _, pid := range marked(p.mark) {
		if role(pid) == name {
			fields := strings.Fields(content(filepath.Join("/proc", strconv.Itoa(pid), "stat")))
			if len(fields) > 2 {
				states += fields[2]
			}
		}
	}
	return states
}

// ^Z stops the command and the supervisor, and fg continues both, again and
// again.
func TestStopAndContinue(t *testing.T) {
	bothModes(t, func(t *testing.T, pid bool) {
		s := defaultScript("stop")
		s.Config.PID = pid
		p := newTerminal(t, s)
		p.out.waitFor(t, "ready", 1)
		for i := range 5 {
			p.keys.Write([]byte{'Z' - '@'})
			p.told.waitFor(t, "stopped 19", i+1)
			if got := p.state("stop"); got != "T" {
				t.Errorf("command's state: got %s, want T", got)
			}
			p.word.WriteString("fg\n")
			p.eventualLines("got 18", i+1)
			p.sentinels()
			if got := p.countSuffix("got 18"); got != i+1 {
				t.Errorf("SIGCONT: got it %d times, want %d", got, i+1)
			}
		}
		p.finish(7)
	})
}

// A command that stops itself, as a shell's suspend does, stops the job; and
// kill -TSTP does it from elsewhere.
func TestStopsItself(t *testing.T) {
	bothModes(t, func(t *testing.T, pid bool) {
		s := defaultScript("stop")
		s.Config.PID = pid
		p := newTerminal(t, s)
		p.out.waitFor(t, "ready", 1)
		for _, member := range marked(p.mark) {
			if role(member) == "stop" {
				syscall.Kill(member, syscall.SIGSTOP)
			}
		}
		p.told.waitFor(t, "stopped 19", 1)
		p.word.WriteString("fg\n")
		p.eventualLines("got 18", 1)
		p.sentinels()

		syscall.Kill(p.supervisorPID(), syscall.SIGTSTP)
		p.told.waitFor(t, "stopped 19", 2)
		p.word.WriteString("fg\n")
		p.eventualLines("got 18", 2)
		p.sentinels()
		p.finish(7)
	})
}

// Nothing stays when the terminal goes away.
func TestTerminalHangup(t *testing.T) {
	p := newTerminal(t, defaultScript("sleep"))
	p.out.waitFor(t, "ready", 1)
	p.keys.Close()
	p.cmd.Wait()
	p.gone()
}
