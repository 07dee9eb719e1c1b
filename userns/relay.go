package userns

import (
	"log/slog"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A relay decides which of the supervisor's signals the command must be sent.
//
// Whether the whole process group got a signal is known by the guard, which is
// in the group and collects signals. The kernel sends to a group under the read
// lock of its list of processes; so the supervisor, which may have got its copy
// before the guard got its own, takes and leaves that lock for writing (barrier)
// and asks then. If the guard has the signal too, it went to the group.
type relay struct {
	guard interface{ signals() (signalSet, error) }
	log   *slog.Logger

	// seen are signals of the guard's for which the supervisor's copy has not
	// been handled yet. Only Guest.Wait's goroutine uses it.
	seen signalSet
}

// group says whether a signal that the supervisor got went to its whole group.
func (r *relay) group(sig syscall.Signal) bool {
	r.ask()
	group := r.seen.has(sig)
	r.seen = r.seen.without(sig)
	return group
}

// ask adds what the guard has got since the last time to what was seen.
func (r *relay) ask() {
	barrier()
	got, err := r.guard.signals()
	if err != nil {
		// The guest ends with the guard in a moment, and a signal too much is
		// better than one too few.
		r.log.Debug("ask guard", "err", err)
	}
	r.seen |= got
}

// barrier returns after every kill(2) to a process group that was under way has
// reached all of the group. setpgid takes the kernel's list of processes for
// writing before it finds that there is no such process.
func barrier() {
	const nobody = math.MaxInt32 // above the largest process id, 1<<22
	unix.Setpgid(nobody, nobody) // always ESRCH
}

// inOurGroup says whether a process has what was sent to our process group.
func inOurGroup(pid int) bool {
	pgid, err := unix.Getpgid(pid)
	return err == nil && pgid == unix.Getpgrp()
}

// inForeground says whether our process group has the terminal.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	pgid, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && pgid == unix.Getpgrp()
}

// follows says whether the supervisor stops when the command was stopped by
// sig. It follows what a terminal sends, so that the caller's shell takes over.
// SIGSTOP comes from a shell's "suspend", which must work too, but also from a
// kill(1) whose author will continue the command and not us: the one happens in
// the foreground of a terminal.
func follows(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		return true
	case syscall.SIGSTOP:
		return inForeground()
	}
	return false
}
