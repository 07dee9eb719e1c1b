package sandbox

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// doSeccomp takes the step and works on.
func doSeccomp([]string) error {
	if err := Seccomp(); err != nil {
		return err
	}
	return work()
}

// doCall makes the system call with a number and a first argument.
func doCall(args []string) error {
	var words [2]uint64
	for i, arg := range args {
		var err error
		if words[i], err = strconv.ParseUint(arg, 0, 64); err != nil {
			return err
		}
	}
	if err := Seccomp(); err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(uintptr(words[0]), uintptr(words[1]), 0, 0)
	return fmt.Errorf("system call %d: %w", words[0], errno)
}

// doClone3 wants what a kernel without clone3 answers, so that the C library
// goes on with clone.
func doClone3([]string) error {
	if err := Seccomp(); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		return fmt.Errorf("clone3: got %v, want %v", errno, unix.ENOSYS)
	}
	return nil
}

func TestSeccompLetsWork(t *testing.T) {
	needFilter(t)
	succeed(t, child(self(t), "seccomp"))
	succeed(t, child(self(t), "clone3"))
}

// TestSeccompKills makes each denied call, with arguments that would not hurt.
func TestSeccompKills(t *testing.T) {
	needFilter(t)
	for _, number := range denied() {
		killed(t, fmt.Sprintf("call %d", number), number, 0)
	}
	for _, flag := range []uint64{
		unix.CLONE_NEWCGROUP, unix.CLONE_NEWIPC, unix.CLONE_NEWNET, unix.CLONE_NEWNS,
		unix.CLONE_NEWPID, unix.CLONE_NEWUSER, unix.CLONE_NEWUTS,
	} {
		killed(t, fmt.Sprintf("clone %#x", flag), unix.SYS_CLONE, flag)
		killed(t, fmt.Sprintf("clone %#x and more", flag), unix.SYS_CLONE, flag|unix.CLONE_VM|uint64(unix.SIGCHLD))
	}
	killed(t, "prctl", unix.SYS_PRCTL, unix.PR_SET_NAME)
	if foreignABI != 0 {
		killed(t, "the other ABI", foreignABI|unix.SYS_GETPID, 0)
	}
}

// killed runs a child that makes a system call and must be killed for it.
func killed(t *testing.T, name string, number uint32, argument uint64) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		err := child(self(t), "call", fmt.Sprint(number), fmt.Sprint(argument)).Run()
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			t.Fatalf("got %v, want %v", err, unix.SIGSYS)
		}
		if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGSYS {
			t.Errorf("got %v, want %v", exit, unix.SIGSYS)
		}
	})
}

// needFilter skips where there is no filter for the processor.
func needFilter(t *testing.T) {
	t.Helper()
	if arch == 0 {
		t.Skip(errArch)
	}
}
