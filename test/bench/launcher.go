package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Patience of a launcher with processes that should end or begin.
const (
	endPatience   = 3 * time.Second
	startPatience = 5 * time.Second
)

// A Launcher is the service of the agents in namespace host: it starts one
// guest with its helper at a time. All of its descendants are the helper's
// processes, except those that run this program.
type Launcher struct {
	mu sync.Mutex
	// current is nil if there is none.
	// +checklocks:mu
	current *launched
	// +checklocks:mu
	crowd []*attached
}

// LaunchArgs describes a guest.
type LaunchArgs struct {
	Helper  Helper
	MTU     int      // bytes, of the guest's interface
	Ports   Ports    // that the helper publishes
	Dir     string   // for the helper's files
	Command []string // what runs in the guest
}

// Launch starts a guest and its helper. It returns when both are started,
// before the guest has a network.
func (l *Launcher) Launch(args LaunchArgs, _ *Nothing) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current != nil {
		return errors.New("launch: the last guest is still there")
	}
	current, err := launch(args, nil)
	if err != nil {
		return err
	}
	l.current = current
	return nil
}

// Stop ends the guest, if there is one, and replies with what the helper
// wrote to standard error.
func (l *Launcher) Stop(_ Nothing, messages *string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		return nil
	}
	err := l.current.stop()
	*messages = l.current.messages.String()
	l.current = nil
	return err
}

// StartUp starts a guest whose command connects to an address as soon as it
// can, and replies with the time from nothing to the first connect.
func (l *Launcher) StartUp(args LaunchArgs, took *time.Duration) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	start := time.Now()
	guest, err := launch(args, write)
	write.Close()
	if err != nil {
		return err
	}
	err = read.SetReadDeadline(start.Add(startPatience))
	if err == nil {
		_, err = io.ReadFull(read, make([]byte, 1))
	}
	*took = time.Since(start)
	stopped := guest.stop()
	if err != nil {
		return fmt.Errorf("no connect after %v: %w: %s", *took, err, guest.messages)
	}
	return stopped
}

// launched is a guest and its helper.
type launched struct {
	command  *process // of the guest, or the helper that runs it
	helper   *process // nil unless it is a process beside the guest
	detach   func() error
	messages *tail
}

// launch starts a guest. stdout is the command's standard output.
func launch(args LaunchArgs, stdout *os.File) (*launched, error) {
	guest := &launched{messages: new(tail)}
	line, isWrapped := args.wrapped()
	with := files{attr: dies(), stdout: stdout}
	if !isWrapped {
		line = args.Command
		with.attr = args.Helper.namespaces(os.Getuid(), os.Getgid())
	}
	var err error
	if guest.command, err = guest.start(line, with); err != nil || isWrapped {
		return guest, err
	}
	if err := guest.attach(args); err != nil {
		return nil, errors.Join(err, guest.stop())
	}
	return guest, nil
}

// attach gives the guest its network.
func (g *launched) attach(args LaunchArgs) error {
	pid := g.command.cmd.Process.Pid
	switch args.Helper.Kind {
	case Loopback:
		return nil
	case Veth:
		g.detach = detachVeth
		return attachVeth(pid, args.MTU)
	}
	var err error
	g.helper, err = g.start(args.attached(pid), files{attr: dies()})
	return err
}

// dies makes a process end with the launcher.
func dies() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// files is what a process is started with besides its command line. What is
// nil is /dev/null, or nothing.
type files struct {
	attr          *syscall.SysProcAttr
	stdin, stdout *os.File
	extra         *os.File // descriptor 3
}

// start starts a command line.
func (g *launched) start(line []string, with files) (*process, error) {
	cmd := exec.Command(line[0], line[1:]...)
	cmd.SysProcAttr = with.attr
	cmd.Stderr = g.messages
	if with.stdin != nil {
		cmd.Stdin = with.stdin
	}
	if with.stdout != nil {
		cmd.Stdout = with.stdout
	}
	if with.extra != nil {
		cmd.ExtraFiles = []*os.File{with.extra}
	}
	cmd.WaitDelay = endPatience // a daemon left behind may keep our pipe open
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how a load generator or a helper ends says nothing
	}()
	return p, nil
}

// stop waits for the command of the guest, which ends by itself when the
// conductor has hung up, then ends its helper.
func (g *launched) stop() error {
	err := g.command.end(endPatience)
	if g.helper != nil {
		err = errors.Join(err, g.helper.end(0))
	}
	if g.detach != nil {
		err = errors.Join(err, g.detach())
	}
	return err
}

// A process is a command with a goroutine that waits for it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// end gives the process some time to end by itself, then terminates, then
// kills it.
func (p *process) end(patience time.Duration) error {
	if p.endsWithin(patience) {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended just now
	if p.endsWithin(endPatience) {
		return nil
	}
	_ = p.cmd.Process.Kill()
	if !p.endsWithin(2 * endPatience) {
		return fmt.Errorf("%s does not end", p.cmd)
	}
	return nil
}

// endsWithin waits for the end of the process.
func (p *process) endsWithin(patience time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(patience):
		return false
	}
}

// tailSize is how much of a helper's messages is kept.
const tailSize = 2048

// A tail keeps the end of what is written to it. It is safe for concurrent
// use.
type tail struct {
	mu sync.Mutex
	// +checklocks:mu
	text []byte
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if excess := len(t.text) - tailSize; excess > 0 {
		t.text = bytes.Clone(t.text[excess:])
	}
	return len(p), nil
}

// String returns the kept text on one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(string(t.text)), " ")
}
