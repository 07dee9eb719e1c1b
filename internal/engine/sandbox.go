package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"taproot/userns"
	"taproot/userns/sandbox"
)

// A Sandbox says what the engine's process gives up. Its capabilities, the
// descriptors that it was not given and every way to gain privileges it never
// has.
type Sandbox struct {
	Mode SandboxMode

	// Files warns of an engine that has the user's files in view because this
	// machine offers no means to prevent it.
	Files bool

	// Calls starts nothing without a filter of system calls.
	Calls bool
}

// A SandboxMode says how much of its sandbox an engine must have.
type SandboxMode uint8

// The modes.
const (
	SandboxAuto    SandboxMode = iota // as much as this machine offers; what is skipped is logged
	SandboxRequire                    // all of it, or nothing runs
	SandboxOff                        // none, but what every engine gives up
)

// ParseSandbox returns the mode of that name.
func ParseSandbox(s string) (SandboxMode, error) {
	for mode := SandboxAuto; mode <= SandboxOff; mode++ {
		if s == mode.String() {
			return mode, nil
		}
	}
	return 0, fmt.Errorf("sandbox %q: want auto, require or off", s)
}

// String returns the mode's name.
func (m SandboxMode) String() string {
	switch m {
	case SandboxAuto:
		return "auto"
	case SandboxRequire:
		return "require"
	case SandboxOff:
		return "off"
	}
	return fmt.Sprintf("SandboxMode(%d)", uint8(m))
}

// A SandboxStep is a part of the sandbox as an engine has it.
type SandboxStep struct {
	Name   string // a constant below
	On     bool
	Detail string // of what kind it is, or why it is not on
}

// The steps of the sandbox that may be missing, in the order in which they are
// taken. They are part of the API.
const (
	StepNamespaces = "namespaces" // user, mount, PID, IPC, UTS and cgroup namespaces of its own
	StepRoot       = "root"       // an empty root directory
	StepLandlock   = "landlock"   // no files, not even by directories that are open; no signals to others
	StepSeccomp    = "seccomp"    // no system calls but those of its work

	// StepSupervisor is the supervisor's own: no_new_privs, no system calls that none of
	// our processes has to make, and of capabilities, if it has some, what it goes on to
	// need.
	StepSupervisor = "supervisor"
)

// sandboxError is what SandboxRequire refuses to run with.
type sandboxError struct {
	step  SandboxStep
	hint  string
	cause error // nil if the engine has told
}

// Error names the step and why it was not taken.
func (e *sandboxError) Error() string {
	return fmt.Sprintf("sandbox: %s: %s", e.step.Name, e.step.Detail)
}

// Unwrap returns the cause.
func (e *sandboxError) Unwrap() error { return e.cause }

// required returns the error of a cell as one of the step of the sandbox that it was
// for, if all steps are required.
func (m SandboxMode) required(err error) error {
	cell := (*userns.CellError)(nil)
	if m != SandboxRequire || !errors.As(err, &cell) || !cell.Namespaces && !cell.Root {
		return err
	}
	step := SandboxStep{Name: StepNamespaces, Detail: cell.Error()}
	if cell.Root {
		step.Name = StepRoot
	}
	return &sandboxError{step: step, hint: cell.Hint(), cause: err}
}

// Hint returns the remedy.
func (e *sandboxError) Hint() string {
	if e.hint != "" {
		return e.hint
	}
	return "--sandbox=auto does without"
}

// skipped returns the steps that were not taken, as they are logged.
func skipped(steps []SandboxStep) string {
	var list []string
	for _, s := range steps {
		if !s.On {
			list = append(list, s.Name+": "+s.Detail)
		}
	}
	return strings.Join(list, "; ")
}

// own returns the steps that an engine takes itself, as far as it has told of
// them.
func own(told []SandboxStep) []SandboxStep {
	steps := []SandboxStep{{Name: StepLandlock}, {Name: StepSeccomp}}
	for i, s := range steps {
		for _, t := range told {
			if t.Name == s.Name {
				steps[i].On, steps[i].Detail = t.On, plain(t.Detail)
			}
		}
	}
	return steps
}

// has tells whether a step was taken.
func has(steps []SandboxStep, name string) bool {
	for _, s := range steps {
		if s.Name == name {
			return s.On
		}
	}
	return false
}

// check says what must not be missing, and warns of what should not.
func (s Sandbox) check(steps []SandboxStep) (warning string, err error) {
	for _, step := range steps {
		if !step.On && (s.Mode == SandboxRequire || s.Calls && step.Name == StepSeccomp) {
			return "", &sandboxError{step: step}
		}
	}
	if s.Files && !has(steps, StepRoot) && !has(steps, StepLandlock) {
		warning = "the engine still sees the files of the user: " + skipped(steps)
	}
	return warning, nil
}

// A level is how much of a cell an engine is started in.
type level struct{ namespaces, root bool }

// levels returns those to be tried, the highest first.
func (m SandboxMode) levels() []level {
	switch m {
	case SandboxOff:
		return []level{{}}
	case SandboxRequire:
		return []level{{true, true}}
	}
	return []level{{true, true}, {true, false}, {}}
}

// steps returns what a level means, with what was refused above it.
func (l level) steps(mode SandboxMode, refused []error) []SandboxStep {
	namespaces := SandboxStep{Name: StepNamespaces, On: l.namespaces}
	root := SandboxStep{Name: StepRoot, On: l.root}
	if mode == SandboxOff {
		namespaces.Detail, root.Detail = switchedOff, switchedOff
		return []SandboxStep{namespaces, root}
	}
	for _, err := range refused {
		cell := (*userns.CellError)(nil)
		if !errors.As(err, &cell) {
			continue
		}
		if cell.Root && root.Detail == "" {
			root.Detail = cell.Error()
		}
		if cell.Namespaces {
			namespaces.Detail = cell.Error()
		}
	}
	if !l.root && root.Detail == "" {
		root.Detail = "not without " + StepNamespaces
	}
	return []SandboxStep{namespaces, root}
}

// switchedOff is the detail of steps that nobody wanted.
const switchedOff = "--sandbox=off"

// neededCapabilities returns those that a supervisor goes on to need which has some, as
// one of root has: most of them for engines that are started after others.
func neededCapabilities(attached bool) []uint {
	list := []uint{
		// Paths of Unix sockets, resolv.conf and programs, whoever they belong to.
		unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH,
		// Ports below 1024, and those of one device, that are published later.
		unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW,
		// User namespaces of engines, where only root may make them, and to map root in
		// them (user_namespaces(7), since Linux 5.12).
		unix.CAP_SYS_ADMIN, unix.CAP_SETFCAP,
	}
	if !attached {
		return list // it owns the guest's namespaces, and so has all in there
	}
	// Namespaces of others, and who is in them.
	return append(list, unix.CAP_NET_ADMIN, unix.CAP_SYS_PTRACE)
}

// renounce does the work of forgo. less is why it did not give up capabilities, for
// which a program that was built with cgo has no means.
func (s *supervisor) renounce() (less, err error) {
	less = sandbox.Capabilities(neededCapabilities(s.world.outlives())...)
	if less != nil && !errors.Is(less, errors.ErrUnsupported) {
		return nil, less
	}
	return less, sandbox.Forgo()
}

// forgo takes from the supervisor what it does not need from now on. The command
// of Run has been forked before: it may gain privileges as anywhere else.
func (s *supervisor) forgo() error {
	step := SandboxStep{Name: StepSupervisor}
	if s.cfg.Sandbox.Mode == SandboxOff {
		step.Detail = switchedOff
	} else if less, err := s.renounce(); err != nil {
		step.Detail = err.Error()
	} else if step.On = true; less != nil {
		step.Detail = less.Error()
	}
	s.mu.Lock()
	s.forgone = step
	s.mu.Unlock()
	if step.On || s.cfg.Sandbox.Mode == SandboxOff {
		return nil
	}
	if s.cfg.Sandbox.Mode == SandboxRequire {
		return &sandboxError{step: step}
	}
	s.log.Warn("sandbox incomplete", "skipped", skipped([]SandboxStep{step}))
	return nil
}

// fewer tells whether one of the steps of before is missing.
func fewer(before, steps []SandboxStep) bool {
	return slices.ContainsFunc(before, func(s SandboxStep) bool { return s.On && !has(steps, s.Name) })
}

// sandboxIs notes what the engine has given up, and logs what it has not, of the first
// and of each that has given up less than the one before.
func (s *supervisor) sandboxIs(steps []SandboxStep) {
	s.mu.Lock()
	before := s.sandbox
	s.sandbox = steps
	s.mu.Unlock()
	missing := skipped(steps)
	switch {
	case missing == "" || s.cfg.Sandbox.Mode == SandboxOff:
	case fewer(before, steps):
		s.log.Warn("sandbox weaker than before", "skipped", missing)
	case before != nil:
	case !has(steps, StepRoot) && !has(steps, StepLandlock), !has(steps, StepSeccomp):
		s.log.Warn("sandbox incomplete", "skipped", missing)
	default: // something else does the same
		s.log.Info("sandbox incomplete", "skipped", missing)
	}
}
