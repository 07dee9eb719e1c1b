package front

import (
	"context"
	"errors"
	"os"
	"syscall"

	"taproot/cmd/internal/caller"
	"taproot/internal/api"
	"taproot/internal/engine"
	"taproot/internal/probe"
	"taproot/userns"
)

// Exit statuses of our own; the command's pass unchanged.
const (
	statusMisuse  = 2   // as bash and the GNU tools
	statusFailure = 125 // as env(1), nohup(1) and the container tools
)

// Main runs the command line args, of which args[0] is the program's name, and
// returns the exit status. version is what `taproot version` prints.
func Main(args []string, version string) int {
	p := &program{
		out:     newOutput(os.Stdout),
		err:     newOutput(os.Stderr),
		version: version,
		run:     engine.Run,
		attach:  engine.Attach,
		probe:   probe.All,
		listen:  api.Listen,
	}
	p.err.journal = caller.ToJournal(os.Stderr)
	return p.main(context.Background(), args[min(1, len(args)):])
}

// A program is one invocation: where it writes and what it calls. Tests fill it
// with buffers and with functions that only look at what they get.
type program struct {
	out, err *output
	version  string
	run      func(context.Context, userns.Config, engine.Config) (int, error)
	attach   func(context.Context, engine.Attachment, engine.Config) error
	probe    func(context.Context) []probe.Result
	listen   func(api.Config) (*api.Server, error) // nil: instances have no socket

	// status is the exit status that the command's function decided on; it
	// counts when that returned no error.
	status int
}

// main runs one command line, tells the user what went wrong, and returns the
// exit status.
func (p *program) main(ctx context.Context, args []string) int {
	root := p.root()
	root.SetArgs(append([]string{}, nameFirst(args)...)) // not nil: that would mean os.Args
	err := root.ExecuteContext(ctx)
	if bad := p.out.failure(); bad != nil {
		err = &explained{bad, "is there room? see: df -h"}
	}
	if err == nil {
		return p.status
	}
	p.complain(err)
	if m := (*misuse)(nil); errors.As(err, &m) {
		return statusMisuse
	}
	return max(p.status, statusFailure) // 126 and 127 say more
}

// complain prints err and, if it has one, its hint.
func (p *program) complain(err error) {
	p.err.say(caller.PriorityError, "taproot: %v\n", err)
	if h := hint(err); h != "" {
		p.err.say(caller.PriorityError, "taproot: hint: %s\n", h)
	}
}

// warn prints what the user should know although things go on.
func (p *program) warn(message, hint string) {
	p.err.say(caller.PriorityWarning, "taproot: warning: %s\n", message)
	if hint != "" {
		p.err.say(caller.PriorityWarning, "taproot: hint: %s\n", hint)
	}
}

// hint returns what the first error of err's tree that knows a remedy says. A
// full disk can be met by anything that writes and needs no type of its own.
func hint(err error) string {
	if h, ok := caller.Hint(err); ok {
		return h
	}
	if errors.Is(err, syscall.ENOSPC) {
		return "df -h shows which file system is full"
	}
	return ""
}

// A misuse is an error of whoever wrote the command line.
type misuse struct {
	err    error
	remedy string // what to do, "" for nothing
}

// Error implements error.
func (m *misuse) Error() string { return m.err.Error() }

// Unwrap gives the cause.
func (m *misuse) Unwrap() error { return m.err }

// Hint says what to do instead.
func (m *misuse) Hint() string { return m.remedy }
