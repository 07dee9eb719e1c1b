package userns

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// runInit is what process 1 of a guest does instead of becoming the command: it
// starts it, reaps everything, passes the supervisor's signals on, tells the
// command's stops, and ends with the command's status. The kernel then kills
// whatever else is in the PID namespace.
//
// It has one goroutine, which ends with the process.
func (s *stage) runInit() (status int, err error) {
	// Process 1 gets what the terminal sends to the group, and drops it: the
	// command has got it too.
	if list := witnessed().list(); len(list) > 0 {
		signal.Notify(make(chan os.Signal, 1), list...)
	}
	if err := dropCapabilities(s.order.Identity); err != nil {
		return statusFailed, err
	}
	// Once more, since a change of credentials clears it (prctl(2)).
	if err := dieWithParent(); err != nil {
		return statusFailed, err
	}
	if !s.wire.open() {
		return statusFailed, syscall.EPIPE
	}
	pid, err := s.startCommand()
	if err != nil {
		return statusFailed, err
	}
	if err := s.wire.send(message{Started: true}); err != nil {
		return statusFailed, fmt.Errorf("process 1: %w", err)
	}
	go s.passSignals(pid)
	return s.reap(pid)
}

// startCommand starts the command as a child.
func (s *stage) startCommand() (pid int, err error) {
	err = execCommand(s.path, s.order, func(path string, argv, env []string) error {
		var err error
		pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{
			Env:   env,
			Files: []uintptr{0, 1, 2}, // and what is not close-on-exec
		})
		return err
	})
	return pid, err
}

// passSignals sends the command what the supervisor asks for. It ends the guest
// when the supervisor has gone.
func (s *stage) passSignals(command int) {
	for {
		m, err := s.wire.recv()
		if err != nil {
			os.Exit(statusFailed)
		}
		if m.Signal == nil || m.Signal.Group && inOurGroup(command) {
			continue
		}
		syscall.Kill(command, syscall.Signal(m.Signal.Number)) // it may have ended
	}
}

// reap waits for all children until the command has ended.
func (s *stage) reap(command int) (status int, err error) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WUNTRACED, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return statusFailed, os.NewSyscallError("wait4", err)
		case pid != command:
		case ws.Stopped():
			s.wire.send(message{Stopped: int(ws.StopSignal())}) // its end shows elsewhere
		default:
			return exitStatus(ws), nil
		}
	}
}
