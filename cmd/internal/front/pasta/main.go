package pasta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"taproot/cmd/internal/caller"
	"taproot/cmd/internal/getopt"
	"taproot/internal/engine"
	"taproot/userns"
)

// Name is what callers exec.
const Name = "pasta"

// statusFailure is pasta's exit status for everything that goes wrong.
const statusFailure = 1

// Main runs the command line args, without the program's name, which is name,
// and returns the exit status. version is ours.
func Main(name string, args []string, version string) int {
	// A caller that no longer reads what we say does not mean us to die.
	signal.Ignore(syscall.SIGPIPE)
	p := &program{
		name: name, args: args, version: version, out: os.Stdout, err: newSink(os.Stderr),
		attach: engine.Attach, run: engine.Run, launch: launch,
	}
	return p.main(context.Background())
}

// A program is one invocation: where it writes and what it calls. Tests fill it
// with buffers and with functions that only look at what they get.
type program struct {
	name    string
	args    []string
	version string
	out     io.Writer
	err     *sink

	attach func(context.Context, engine.Attachment, engine.Config) error
	run    func(context.Context, userns.Config, engine.Config) (int, error)
	launch func(args []string) (int, error)
}

// main runs one command line and returns the exit status.
func (p *program) main(ctx context.Context) int {
	o, err := parse(p.args)
	switch {
	case errors.Is(err, errHelp):
		return p.print(Help)
	case errors.Is(err, errVersion):
		return p.print(versionText(p.version))
	case err != nil:
		return p.misuse(err)
	}
	status, err := p.start(ctx, o)
	if err != nil {
		p.complain(err)
		return max(status, statusFailure)
	}
	return status
}

// start goes the way that the options ask for.
func (p *program) start(ctx context.Context, o *options) (status int, err error) {
	if o.runAs != nil {
		if err := become(*o.runAs, os.Args); err != nil {
			return statusFailure, err
		}
	}
	if p.name == SupervisorName {
		setComm(Name)
		return 0, p.serve(ctx, o)
	}
	if o.mode() == modeCommand {
		return p.command(ctx, o)
	}
	caller.Seal()
	if o.background() {
		return p.launch(p.args)
	}
	return 0, p.serve(ctx, o)
}

// print writes what the user asked to see.
func (p *program) print(text string) int {
	if _, err := io.WriteString(p.out, text); err != nil {
		p.complain(err)
		return statusFailure
	}
	return 0
}

// misuse says what is wrong with a command line. What getopt says is looked
// for by callers, together with the program's name.
func (p *program) misuse(err error) int {
	var unknown *getopt.UsageError
	if !errors.As(err, &unknown) {
		p.complain(err)
		return statusFailure
	}
	fmt.Fprintf(p.err, "%s: %v\n%s", p.name, unknown, usage)
	return statusFailure
}

// complain says why there is no network, and what can be done about it. Like
// the original's, the message is all that is on the line: callers show it to
// people behind words of their own.
func (p *program) complain(err error) {
	hint, _ := caller.Hint(err)
	tell(p.err, err.Error(), hint)
}

// tell writes a message and what can be done about it, if somebody knows.
func tell(w io.Writer, message, hint string) {
	if hint != "" {
		message += "\nhint: " + hint
	}
	fmt.Fprintln(w, message)
}
