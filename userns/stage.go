package userns

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// statusFailed is the exit status of a stage or guard that could not do its
// job. Nobody reads it but a debugger: what went wrong is sent as a message.
const statusFailed = 125

// Stage is the entry point of a process whose argv[0] is StageName. It returns
// the process's exit status, if it returns at all. It takes over the calling
// goroutine's thread and must be called from main before anything else.
func Stage() int {
	// The parent death signal, the capabilities and the final exec are the
	// thread's, so there is only one.
	runtime.LockOSThread()
	if len(os.Args) != 3 {
		return statusFailed
	}
	fd, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return statusFailed
	}
	if os.Args[1] == sweepRole {
		return sweep(fd)
	}
	w, err := newWire(fd)
	if err != nil {
		return statusFailed
	}
	s := &stage{wire: w}
	status, err := s.run(os.Args[1])
	if err != nil {
		w.send(message{Failure: newFailure(err)}) // best effort: the end shows too
	}
	return status
}

// A stage is the process that is born in the guest's namespaces.
type stage struct {
	wire     *wire
	order    *order
	path     string // of the command
	warnings []string
}

// run does the steps of a stage. It does not return if the stage becomes the
// command.
func (s *stage) run(role string) (status int, err error) {
	if role != stageRole {
		return statusFailed, fmt.Errorf("role %q: %w", role, syscall.EINVAL)
	}
	if err := dieWithParent(); err != nil {
		return statusFailed, err
	}
	m, err := s.wire.recv()
	if err != nil || m.Order == nil {
		return statusFailed, fmt.Errorf("stage: no order: %w", syscall.EPROTO)
	}
	s.order = m.Order
	if err := s.prepare(); err != nil {
		return statusFailed, err
	}
	if m, err = s.wire.recv(); err != nil || !m.Run {
		return 0, nil // the supervisor has changed its mind
	}
	if s.order.PID {
		return s.runInit()
	}
	return statusFailed, s.become()
}

// prepare sets up all but the network, which the supervisor does meanwhile, and
// reports it.
func (s *stage) prepare() error {
	for _, step := range []func() error{
		s.enterDir,
		s.findCommand,
		s.ownMounts,
		s.setHostname,
		s.coverFiles,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	s.warn(setPingRange(s.order.PingRange))
	return s.wire.send(message{Ready: &ready{Warnings: s.warnings}})
}

// warn notes something that does not work but is not worth giving up for.
func (s *stage) warn(err error) {
	if err != nil {
		s.warnings = append(s.warnings, err.Error())
	}
}

func (s *stage) enterDir() error {
	if s.order.Dir == "" {
		return nil
	}
	return os.Chdir(s.order.Dir)
}

func (s *stage) setHostname() error {
	if s.order.Hostname == "" {
		return nil
	}
	return os.NewSyscallError("sethostname", unix.Sethostname([]byte(s.order.Hostname)))
}

// setPingRange lets groups send echo requests without a capability. It is done
// here because the range is in the guest's ids.
func setPingRange(groups string) error {
	return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(groups), 0)
}

func (s *stage) findCommand() error {
	path, err := lookPath(s.order.Command[0], s.order.Env)
	if err != nil {
		return err
	}
	s.path = path
	return nil
}

// become turns the stage into the command. It returns only on failure.
func (s *stage) become() error {
	if err := dropCapabilities(s.order.Identity); err != nil {
		return err
	}
	// Once more, since a change of credentials clears it (prctl(2)).
	if err := dieWithParent(); err != nil {
		return err
	}
	if !s.wire.open() {
		return syscall.EPIPE // the supervisor died before it would have counted
	}
	return execCommand(s.path, s.order, syscall.Exec)
}

// dieWithParent has the kernel kill this process when the thread that started
// it ends. It holds for this thread, and across its exec.
func dieWithParent() error {
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	return os.NewSyscallError("prctl PR_SET_PDEATHSIG", err)
}
