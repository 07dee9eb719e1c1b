package pasta

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SupervisorName is argv[0] of the process that stays in the background. The
// process that the caller started makes it, waits until it is ready, and exits.
const SupervisorName = "pasta-supervisor"

// selfExe is the running program's binary, even if its file was replaced.
const selfExe = "/proc/self/exe"

// launcherFD is the supervisor's end of the socket between the two processes.
// The launcher reads one byte from it when everything works; who reads the end
// knows that the other has died.
const launcherFD = 3

// launch starts the supervisor and returns what the launcher exits with: 0 when
// everything works, otherwise the status of the supervisor, which has said what
// is wrong. It starts a process instead of becoming one by fork, which a
// program with threads cannot.
func launch(args []string) (status int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return statusFailure, os.NewSyscallError("socketpair", err)
	}
	pid, err := syscall.ForkExec(selfExe, append([]string{SupervisorName}, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(pair[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	unix.Close(pair[1])
	if err != nil {
		return statusFailure, fmt.Errorf("go to the background: %w", err)
	}
	var b [1]byte
	for {
		n, err := unix.Read(pair[0], b[:])
		if err == unix.EINTR {
			continue
		}
		if n == 1 && err == nil {
			return 0, nil
		}
		break
	}
	return wait(pid), nil
}

// wait waits for a supervisor that has failed and returns its status.
func wait(pid int) int {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err == nil && ws.Exited() && ws.ExitStatus() != 0 {
			return ws.ExitStatus()
		}
		return statusFailure
	}
}

// A launcher is the process that waits for us to be ready.
type launcher struct {
	conn *os.File
	gone chan struct{} // closed when watch has returned
}

// errAbandoned says that the launcher died before we were ready: its caller has
// given up.
var errAbandoned = errors.New("the process that waits for us is gone")

// findLauncher returns the launcher of this supervisor. When it dies before
// leave was called, abandon is called. It has one goroutine, which ends with
// leave.
func findLauncher(abandon func(error)) (*launcher, error) {
	if err := unix.SetNonblock(launcherFD, true); err != nil {
		return nil, fmt.Errorf("%s is started by pasta only: %w", SupervisorName, err)
	}
	unix.CloseOnExec(launcherFD)
	l := &launcher{conn: os.NewFile(launcherFD, "launcher"), gone: make(chan struct{})}
	go func() {
		defer close(l.gone)
		if _, err := l.conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			abandon(errAbandoned)
		}
	}()
	return l, nil
}

// leave lets go of everything that is the caller's, tells the launcher that we
// are ready, and forgets it. After it, nothing may be written to the standard
// streams.
func (l *launcher) leave() error {
	if err := detach(); err != nil {
		return err
	}
	// The watch ends first: the launcher exits as soon as it has read the byte.
	if err := l.conn.SetReadDeadline(time.Now()); err != nil {
		return fmt.Errorf("forget the launcher: %w", err)
	}
	<-l.gone
	defer l.conn.Close()
	if _, err := l.conn.Write([]byte{1}); err != nil {
		return errAbandoned
	}
	return nil
}

// detach gives up the caller's standard streams and working directory.
func detach() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer unix.Close(null)
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return os.Chdir("/")
}

// setComm makes ps(1) and pgrep(1) show the name that the caller knows: a
// program started by /proc/self/exe is called "exe".
func setComm(name string) {
	// Not essential. The thread that the file is about is the main one.
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}

// become takes over a user and group, which only root can. The program is
// executed again, so that /proc lets it look at itself as any other.
func become(id identity, args []string) error {
	if os.Getuid() == id.uid && os.Getgid() == id.gid {
		return nil
	}
	if err := syscall.Setgroups([]int{id.gid}); err != nil {
		return fmt.Errorf("--runas: set groups: %w", err)
	}
	if err := syscall.Setgid(id.gid); err != nil {
		return fmt.Errorf("--runas: set gid %d: %w", id.gid, err)
	}
	if err := syscall.Setuid(id.uid); err != nil {
		return fmt.Errorf("--runas: set uid %d: %w", id.uid, err)
	}
	return &os.PathError{Op: "--runas: exec", Path: selfExe, Err: syscall.Exec(selfExe, args, os.Environ())}
}
