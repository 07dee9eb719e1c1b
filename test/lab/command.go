package lab

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// UserID is the ordinary user's id, as the user sees it.
const UserID = 1000

// commandLimit is when a command that should have ended is killed: longer
// than anything here takes, shorter than go test's own limit.
const commandLimit = 6 * time.Minute

// A Cmd is a command in one of the namespaces. Its fields may be changed until
// Start. What it leaves running is killed when the test ends.
type Cmd struct {
	*exec.Cmd

	// Limit is how long the command may take; it is killed after that.
	Limit time.Duration

	ns     *Namespace
	out    Buffer // standard output, unless Cmd.Stdout was set
	errs   Buffer // standard error, unless Cmd.Stderr was set
	done   chan struct{}
	result error

	afterStart []*os.File // ours only until the command has them
}

// Command is a command in the namespace, run by its root.
func (n *Namespace) Command(name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.Command(name, args...), ns: n, Limit: commandLimit}
	c.Dir = n.lab.Dir
	c.Env = append(withoutVar(os.Environ(), stageVar), n.lab.mark())
	c.SysProcAttr = &syscall.SysProcAttr{}
	// After the command itself has ended, its descendants get this long to
	// let go of its output; then Wait reports [exec.ErrWaitDelay].
	c.WaitDelay = Patience
	return c
}

// Stay gives a command as long as its test may take, or an hour where there is no
// limit: its end comes with the test's.
func (c *Cmd) Stay() {
	c.Limit = time.Hour
	if t, ok := c.ns.lab.t.(interface{ Deadline() (time.Time, bool) }); ok {
		if at, ok := t.Deadline(); ok {
			c.Limit = time.Until(at)
		}
	}
}

// User is a command on the host, run by an ordinary user.
func (l *Lab) User(name string, args ...string) *Cmd {
	c := l.Host.Command(name, args...)
	ids := []syscall.SysProcIDMap{{ContainerID: UserID, HostID: 0, Size: 1}}
	if l.stage.Wide {
		ids = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: wideIDs}}
	}
	c.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
	c.SysProcAttr.UidMappings, c.SysProcAttr.GidMappings = ids, ids
	c.SysProcAttr.GidMappingsEnableSetgroups = l.stage.Wide
	c.SysProcAttr.Credential = &syscall.Credential{Uid: UserID, Gid: UserID, NoSetGroups: !l.stage.Wide}
	c.Env = append(c.Env, "USER=user", "LOGNAME=user")
	return c
}

// Taproot is the program under test on the host, run by an ordinary user.
func (l *Lab) Taproot(args ...string) *Cmd { return l.User(l.TaprootPath(), args...) }

// Program is one of the test binary's own [Programs], run by the namespace's
// root.
func (n *Namespace) Program(name string, args ...string) *Cmd {
	words := n.lab.ProgramArgs(name, args...)
	return n.Command(words[0], words[1:]...)
}

// Start starts the command in its namespace.
func (c *Cmd) Start() error {
	if c.Stdout == nil {
		c.Stdout = &c.out
	}
	if c.Stderr == nil {
		c.Stderr = &c.errs
	}
	err := c.ns.Do(c.Cmd.Start)
	for _, f := range c.afterStart {
		f.Close()
	}
	if err != nil {
		return err
	}
	c.done = make(chan struct{})
	limit := time.AfterFunc(c.Limit, func() { c.Process.Kill() })
	go func() {
		defer close(c.done)
		c.result = c.Cmd.Wait()
		limit.Stop()
	}()
	c.ns.lab.t.Cleanup(c.cleanup)
	return nil
}

func (c *Cmd) cleanup() {
	t := c.ns.lab.t
	c.Process.Kill()
	<-c.done
	if t.Failed() {
		t.Logf("%s in %s: %v\nstdout: %s\nstderr: %s", filepath.Base(strings.Join(c.Args, " ")),
			c.ns.Name, c.ProcessState, tail(c.out.String()), tail(c.errs.String()))
	}
}

// tail is enough of a command's output to see what went wrong.
func tail(s string) string {
	const most = 4096
	if len(s) <= most {
		return s
	}
	return "..." + s[len(s)-most:]
}

// Wait waits for the end of the command. Unlike [exec.Cmd.Wait] it may be
// called again and by several goroutines.
func (c *Cmd) Wait() error {
	<-c.done
	return c.result
}

// Done is closed when the command has ended and its output is complete.
func (c *Cmd) Done() <-chan struct{} { return c.done }

// Run starts the command and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Status waits for the end of the command and returns its exit status as a
// shell counts it: 128+n for signal n.
func (c *Cmd) Status() int { return status(c.Wait()) }

// Out is what the command has written to its standard output so far.
func (c *Cmd) Out() string { return c.out.String() }

// Err is what the command has written to its standard error so far.
func (c *Cmd) Err() string { return c.errs.String() }

// MustRun runs the command, fails the test if its status is not 0, and returns
// its standard output.
func (c *Cmd) MustRun() string {
	t := c.ns.lab.t
	t.Helper()
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v", strings.Join(c.Args, " "), err)
	}
	return c.Out()
}

// MustStart starts the command, or fails the test.
func (c *Cmd) MustStart() *Cmd {
	t := c.ns.lab.t
	t.Helper()
	if err := c.Start(); err != nil {
		t.Fatalf("%s: %v", strings.Join(c.Args, " "), err)
	}
	return c
}

// Signal sends a signal to the command; it is no error if the command has
// ended.
func (c *Cmd) Signal(s os.Signal) error {
	err := c.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// A Buffer collects output while others look at it. The zero value is ready.
type Buffer struct {
	mu sync.Mutex
	// +checklocks:mu
	b bytes.Buffer
}

// Write adds p. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String is what has been written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func withoutVar(environ []string, name string) []string {
	var kept []string
	for _, v := range environ {
		if !strings.HasPrefix(v, name+"=") {
			kept = append(kept, v)
		}
	}
	return kept
}
