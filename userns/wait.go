package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// maxSignals is how many signals wait for Guest.Wait. Go's runtime merges equal
// ones before they get here.
const maxSignals = 64

// Go runs the command. It returns when the command was executed, or a
// *CommandError when it could not be. From here on the process's signals belong
// to the guest: they wait for Guest.Wait.
func (g *Guest) Go() error {
	g.signals = make(chan os.Signal, maxSignals) // each a syscall.Signal
	if list := witnessed().list(); len(list) > 0 {
		signal.Notify(g.signals, list...)
	}
	if err := g.wire.send(message{Run: true}); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	m, err := g.wire.recv()
	switch {
	case errors.Is(err, io.EOF):
		// exec closed the stage's end. Or the stage has died; Wait tells.
		return nil
	case err != nil:
		return fmt.Errorf("stage: %w", err)
	case m.Failure != nil:
		return m.Failure.err()
	}
	if g.pid1 {
		g.listens = make(chan struct{})
		go g.listen()
	}
	return nil
}

// listen notes what process 1 says about its child, the command.
func (g *Guest) listen() {
	defer close(g.listens)
	for {
		m, err := g.wire.recv()
		if err != nil {
			return
		}
		if m.Stopped == 0 {
			continue
		}
		select {
		case g.stops <- syscall.Signal(m.Stopped):
		default:
		}
	}
}

// Wait waits for the end of the command and returns its exit status, or 128+n
// if signal n ended it. Until then it passes signals on and stops when the
// terminal stops the command. When it returns, nothing lives in the guest's
// namespaces. The error, if any, says what went wrong beside the command.
func (g *Guest) Wait() (status int, err error) {
	for {
		select {
		case s := <-g.signals:
			g.pass(s.(syscall.Signal))
		case sig := <-g.stage.stops:
			g.follow(sig)
		case sig := <-g.stops:
			g.follow(sig)
		case <-g.guard.done:
			g.stage.end()
			err = errGuardGone
		case <-g.stage.done:
		}
		select {
		case <-g.stage.done:
			return exitStatus(g.stage.status), errors.Join(err, g.space.clear())
		default:
		}
	}
}

// pass sends a signal of ours to the command, unless the command has it.
func (g *Guest) pass(sig syscall.Signal) {
	group := g.relay.group(sig)
	g.log.Debug("signal", "number", int(sig), "group", group)
	var err error
	switch {
	case g.pid1:
		// Only process 1 knows the command's process id.
		err = g.wire.send(message{Signal: &signalOrder{Number: int(sig), Group: group}})
	case !group || !inOurGroup(g.stage.pid):
		err = g.stage.signal(sig)
	}
	if err != nil {
		g.log.Debug("pass signal", "number", int(sig), "err", err)
	}
}

// follow stops this process as the command was stopped. When somebody continues
// it, SIGCONT comes as a signal to pass on.
//
// It is SIGSTOP whatever stopped the command: the default action of SIGTSTP
// would need our handler out of the way, and a SIGTSTP to the group that is
// still on its way to us would then stop us once more after we were continued.
func (g *Guest) follow(sig syscall.Signal) {
	if !follows(sig) {
		return
	}
	g.settle()
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		g.log.Debug("stop", "err", err)
	}
}

// settle handles the stop signal that the command was stopped by, if we have
// got it too. It must be done before SIGCONT comes, which makes the kernel
// forget the guard's copy: ours would then seem to be for us alone.
func (g *Guest) settle() {
	g.relay.ask()
	timeout := time.After(guardTimeout)
	for g.relay.seen.stopping() != 0 {
		select {
		case s := <-g.signals: // on its way, as the guard has it
			g.pass(s.(syscall.Signal))
		case <-timeout:
			g.relay.seen &^= g.relay.seen.stopping()
		}
	}
}

// Kill ends the guest's first process by SIGKILL. Wait tells when it has gone,
// and ends the others. It is safe to call from several goroutines, at any time
// before Close.
func (g *Guest) Kill() { g.stage.signal(syscall.SIGKILL) }

// Close ends the guest if it still lives, and releases what it holds. It
// returns when no process and no goroutine of the guest is left. It must not be
// called while Wait runs, and only once.
func (g *Guest) Close() error {
	var err error
	if g.stage != nil {
		g.stage.end()
	}
	if g.space != nil {
		err = g.space.clear()
		g.space.close()
	}
	if g.guard != nil {
		g.guard.close()
	}
	if g.wire != nil {
		g.wire.close()
	}
	if g.listens != nil {
		<-g.listens
	}
	if g.signals != nil {
		signal.Stop(g.signals)
	}
	closeFile(g.device)
	if g.covering != nil {
		g.covering.close()
	}
	g.thread.stop()
	return err
}
