package userns

import (
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A process is a child of ours. One goroutine waits for it and has returned
// when done is closed.
type process struct {
	pid int

	// stops gets the signal that stopped the process. Only the latest news
	// counts, so one place is enough, and a stop that finds it taken is dropped.
	stops chan syscall.Signal

	// done is closed when the process was reaped. status is valid then.
	done   chan struct{}
	status syscall.WaitStatus

	mu sync.Mutex
	// reaped says that pid may be somebody else's.
	// +checklocks:mu
	reaped bool
}

// watch starts to wait for a child.
func watch(pid int) *process {
	p := &process{pid: pid, stops: make(chan syscall.Signal, 1), done: make(chan struct{})}
	go p.wait()
	return p
}

// wait reaps the process and notes its stops. It waits without reaping first,
// so that signal never meets a process id that has been given away.
func (p *process) wait() {
	defer close(p.done)
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || p.reap() {
			return
		}
	}
}

// reap takes the news that wait has seen. It reports whether it was the last.
func (p *process) reap() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG|syscall.WUNTRACED, nil)
	switch {
	case err == syscall.EINTR, err == nil && pid == 0: // continued meanwhile
		return false
	case err == nil && status.Stopped():
		select {
		case p.stops <- status.StopSignal():
		default:
		}
		return false
	}
	p.status, p.reaped = status, true
	return true
}

// signal sends a signal, unless the process was reaped already.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return syscall.ESRCH
	}
	return syscall.Kill(p.pid, sig)
}

// end kills the process and returns when it was reaped.
func (p *process) end() {
	p.signal(syscall.SIGKILL) // ESRCH is what we want
	<-p.done
}

// exitStatus returns a process's exit status as a shell reports it.
func exitStatus(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
