package userns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// selfExe is the running program's binary, even if its file was replaced.
const selfExe = "/proc/self/exe"

// A Guest is a guest's first process, seen from the supervisor. Start makes it,
// Close ends it; in between it has three goroutines (the thread that started
// its processes, and one that waits for each of them), and a fourth after Go if
// it has a PID namespace.
type Guest struct {
	log    *slog.Logger
	pid1   bool // the stage stays as the guest's process 1
	thread *thread
	stage  *process
	guard  *guard
	wire   *wire
	space  *space
	relay  relay

	device *os.File // until Device hands it over

	covering *covering // nil if nothing is covered, or that cannot be kept

	signals chan os.Signal
	stops   chan syscall.Signal // of the command, if it is process 1's child
	listens chan struct{}       // closed when listen has returned; nil without
}

// Start makes the guest's namespaces and sets everything up in them: the network
// from here, the rest by the stage. When it returns, the device is open and
// configured and the command does not run yet. If ctx ends before that,
// everything is undone.
//
// An error with a remedy implements interface{ Hint() string }; a command that
// is not there is a *CommandError already here.
func Start(ctx context.Context, c Config, s Setup) (*Guest, error) {
	if len(c.Command) == 0 {
		return nil, errors.New("config: command: none")
	}
	if c.Hostname != "" && !c.UTS {
		return nil, errors.New("config: hostname: needs a UTS namespace")
	}
	g := &Guest{log: c.Log, pid1: c.PID, stops: make(chan syscall.Signal, 1)}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.thread = newThread()
	if err := g.start(ctx, c, s); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// start does the work of Start; what it leaves behind, Close cleans up.
func (g *Guest) start(ctx context.Context, c Config, s Setup) error {
	var sub subordinates
	var err error
	if c.Identity == IdentityAuto {
		if sub, err = findSubordinates(os.Getuid()); err != nil {
			return err
		}
	}
	if err := g.startStage(c); err != nil {
		return err
	}
	if g.space, err = openSpace(g.stage.pid); err != nil {
		return err
	}
	if g.guard, err = startGuard(g.thread, g.space); err != nil {
		return err
	}
	g.relay = relay{guard: g.guard, log: g.log}
	if c.Identity == IdentityAuto {
		if err := mapSubordinates(ctx, g.stage.pid, sub); err != nil {
			return err
		}
	}
	return g.prepare(ctx, newOrder(c, s, sub), s)
}

// newOrder says it all to the stage.
func newOrder(c Config, s Setup, sub subordinates) *order {
	o := &order{
		Command: c.Command, Dir: c.Dir, Env: c.Env, Identity: c.Identity, PID: c.PID, Hostname: c.Hostname,
		PingRange:  pingRange(c.Identity, os.Getgid(), sub.gids),
		ResolvConf: s.ResolvConf, Hosts: s.Hosts,
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	return o
}

// startStage starts the stage in new namespaces.
func (g *Guest) startStage(c Config) error {
	w, theirs, err := newWirePair()
	if err != nil {
		return err
	}
	g.wire = w
	defer unix.Close(theirs)
	uids, gids := identityMaps(c.Identity, os.Getuid(), os.Getgid())
	attr := &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: inherit(theirs),
		Sys: &syscall.SysProcAttr{
			Cloneflags:  cloneFlags(c),
			UidMappings: uids,
			GidMappings: gids, // with setgroups denied, as an ordinary user must
			AmbientCaps: ambientCaps(c.Identity),
			Pdeathsig:   syscall.SIGKILL,
		},
	}
	var pid int
	g.thread.do(func() {
		pid, err = syscall.ForkExec(selfExe, []string{StageName, stageRole, strconv.Itoa(theirs)}, attr)
	})
	if err != nil {
		return namespaceError(err)
	}
	g.stage = watch(pid)
	g.log.Debug("stage started", "pid", pid, "identity", c.Identity.String())
	return nil
}

func cloneFlags(c Config) uintptr {
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	for _, option := range []struct {
		on   bool
		flag uintptr
	}{{c.PID, unix.CLONE_NEWPID}, {c.IPC, unix.CLONE_NEWIPC}, {c.UTS, unix.CLONE_NEWUTS}} {
		if option.on {
			flags |= option.flag
		}
	}
	return flags
}

// ambientCaps returns the capabilities of its namespaces that the stage needs
// and would lose by the exec that makes it a stage, because it is not root in
// there: the caller's uid is kept, or not mapped yet.
func ambientCaps(id Identity) []uintptr {
	if id == IdentityRoot {
		return nil
	}
	return []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_KILL}
}

// inherit returns the list of descriptors for a child that keeps descriptor fd
// under its number, and all that the child inherits anyway under theirs. A
// shorter list would put fd in the place of one that the caller passed for the
// command.
func inherit(fd int) []uintptr {
	const closed = ^uintptr(0)
	files := make([]uintptr, fd+1)
	for i := range files {
		files[i] = uintptr(i)
		flags, err := unix.FcntlInt(uintptr(i), unix.F_GETFD, 0)
		if i != fd && (err != nil || flags&unix.FD_CLOEXEC != 0) {
			files[i] = closed
		}
	}
	return files
}

// prepare gives the stage its order and sets the network up meanwhile.
func (g *Guest) prepare(ctx context.Context, o *order, s Setup) error {
	stop := context.AfterFunc(ctx, func() { g.wire.conn.SetDeadline(time.Now()) })
	covers := s.covers()
	sent := g.wire.send(message{Order: o})
	device, warnings, attachErr := g.attach(ctx, s)
	g.device = device
	// Of two troubles the stage's comes first: a command that is not there makes
	// all others pointless. If it has gone, it may have said why before.
	r, err := g.ready(ctx, sent)
	stop()
	if ctx.Err() != nil { // whether or not the function above has run yet
		return ctx.Err()
	}
	if err = cmp.Or(err, attachErr); err != nil {
		return err
	}
	for _, text := range append(warnings, r.Warnings...) {
		g.log.Warn(text)
	}
	if len(covers) == 0 {
		return nil
	}
	if g.covering, err = newCovering(g.stage.pid, g.space.file, covers); err != nil {
		g.log.Info("the host's files come into view when they are replaced", "error", err)
	}
	return nil
}

// attach sets up the guest's network.
func (g *Guest) attach(ctx context.Context, s Setup) (device *os.File, warnings []string, err error) {
	// A child that was not reaped keeps its number.
	net, err := openNamespace(namespacePath(g.stage.pid, "net"), unix.CLONE_NEWNET)
	if err != nil {
		return nil, nil, err
	}
	defer net.Close()
	n := &Namespace{target: Target{PID: g.stage.pid}, net: net, user: g.space.file}
	return n.Attach(ctx, s)
}

// ready waits until the stage is ready. sent is the error of its order.
func (g *Guest) ready(ctx context.Context, sent error) (*ready, error) {
	m, err := g.wire.recv()
	switch {
	case err == nil && m.Failure != nil:
		return nil, m.Failure.err()
	case err == nil && m.Ready == nil:
		err = syscall.EPROTO
	case errors.Is(err, io.EOF) && sent != nil:
		err = sent
	}
	switch {
	case err == nil:
		return m.Ready, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE):
		<-g.stage.done
		return nil, fmt.Errorf("stage: ended with status %d", exitStatus(g.stage.status))
	}
	return nil, fmt.Errorf("stage: %w", err)
}

// Device returns the file of the guest's device. The caller owns it from then on
// and closes it; it is nil in a second call, and without a device.
func (g *Guest) Device() *os.File {
	f := g.device
	g.device = nil
	return f
}

// PID returns the process id, in the supervisor's PID namespace, of the stage,
// which becomes the command, or the guest's process 1 with Config.PID.
func (g *Guest) PID() int { return g.stage.pid }

// Namespace opens the guest's network namespace, so that more can be done in it.
// It belongs to the caller and must be taken before Guest.Go, after which the
// process may leave for another.
func (g *Guest) Namespace() (*Namespace, error) {
	return OpenTarget(Target{PID: g.stage.pid})
}
