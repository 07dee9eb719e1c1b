package pasta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"taproot/cmd/internal/caller"
	"taproot/cmd/internal/getopt"
	"taproot/internal/api"
	"taproot/portfwd"
)

// PestoName is what callers exec to change the ports of a running pasta.
const PestoName = "pesto"

// The tables of pesto.
const (
	tableHost   = "HOST"   // inbound
	tableSplice = "SPLICE" // outbound
)

// A pesto is a command line of that program as parsed.
type pesto struct {
	show  bool
	steps []step
	path  string
}

// A step is what one option does.
type step struct {
	do        action
	direction portfwd.Direction // of the table
	what      []publication     // unless a table is cleared
}

// An action is what a step does, or what becomes of the specifications to come.
type action int

const (
	actionReplace action = iota // the first one of a table clears it
	actionAdd
	actionDelete
	actionClear
)

// Causes that are about the whole of a command line, or one of its words.
var (
	errNoPath  = errors.New("PATH of pasta's control socket expected")
	errNoTable = errors.New("no such table, want " + tableHost + " or " + tableSplice)
)

// PestoMain runs the command line args, without the program's name, which is
// name, and returns the exit status. version is ours.
func PestoMain(name string, args []string, version string) int {
	ephemeral := parseEphemeral(readText("/proc/sys/net/ipv4/ip_local_port_range"))
	return pestoMain(context.Background(), name, args, version, ephemeral, os.Stdout, os.Stderr)
}

func pestoMain(ctx context.Context, name string, args []string, version string, ephemeral portRange, out, errs io.Writer) int {
	p, err := parsePesto(args, ephemeral)
	var text string
	switch {
	case errors.Is(err, errHelp):
		text, err = PestoHelp, nil
	case errors.Is(err, errVersion):
		text, err = pestoVersionText(version), nil
	case err == nil:
		text, err = p.run(ctx)
	}
	if err == nil {
		_, err = io.WriteString(out, text)
	}
	if err == nil {
		return 0
	}
	if unknown := (*getopt.UsageError)(nil); errors.As(err, &unknown) {
		fmt.Fprintf(errs, "%s: %v\n%s", name, unknown, pestoUsage)
		return statusFailure
	}
	hint, _ := caller.Hint(err)
	tell(errs, err.Error(), hint)
	return statusFailure
}

// parsePesto parses a command line. ephemeral are the ports that the kernel gives
// to clients.
func parsePesto(args []string, ephemeral portRange) (*pesto, error) {
	p, mode := &pesto{}, actionReplace
	s := getopt.New()
	flag(s, "show", "s", &p.show)
	s.Flag("add", "A", func() error { mode = actionAdd; return nil })
	s.Flag("delete", "D", func() error { mode = actionDelete; return nil })
	s.Value("clear", "C", func(text string) error {
		d, err := parseTable(text)
		p.clear(d)
		if mode == actionReplace {
			mode = actionAdd // nothing is replaced that is cleared by name
		}
		return err
	})
	for i, o := range portOptions {
		s.Value(o.long, o.short, func(text string) error { return p.addSpec(mode, i, text, ephemeral) })
	}
	s.Flag("help", "h", func() error { return errHelp })
	s.Flag("version", "", func() error { return errVersion })
	operands, err := s.Parse(args, getopt.Permute)
	if err != nil {
		return nil, err
	}
	if len(operands) != 1 || operands[0] == "" {
		return nil, errNoPath
	}
	p.path = operands[0]
	return p, nil
}

func parseTable(text string) (portfwd.Direction, error) {
	switch strings.ToUpper(text) {
	case tableHost:
		return portfwd.Inbound, nil
	case tableSplice:
		return portfwd.Outbound, nil
	}
	return 0, fmt.Errorf("%s: %w", text, errNoTable)
}

// clear adds the step that clears a table.
func (p *pesto) clear(d portfwd.Direction) {
	p.steps = append(p.steps, step{do: actionClear, direction: d})
}

// touched tells whether a step is about a table.
func (p *pesto) touched(d portfwd.Direction) bool {
	for _, s := range p.steps {
		if s.direction == d {
			return true
		}
	}
	return false
}

// addSpec adds the steps of a port option, which is portOptions[i].
func (p *pesto) addSpec(mode action, i int, text string, ephemeral portRange) error {
	spec, err := parsePorts("-"+portOptions[i].short, text)
	if err != nil {
		return err
	}
	on := sides[i]
	if err := checkOutward(spec); err != nil && on.direction == portfwd.Outbound {
		return &specError{text, err}
	}
	if mode == actionReplace {
		if !p.touched(on.direction) {
			p.clear(on.direction)
		}
		mode = actionAdd
	}
	// What pasta's own options say of all rules, pasta adds: see completed.
	what := new(options).publication(on, spec, ephemeral)
	if spec.auto {
		follower := new(options).follower(on, spec, ephemeral)
		what = []publication{{option: spec.option, text: text, auto: &follower}}
	}
	if what != nil {
		p.steps = append(p.steps, step{mode, on.direction, what})
	}
	return nil
}

// run does what the command line says and returns what it shows.
func (p *pesto) run(ctx context.Context) (string, error) {
	c := api.NewClient(p.path)
	defer c.Close()
	rules, err := c.Rules(ctx)
	if err != nil {
		return "", &unreachableError{err}
	}
	if len(p.steps) > 0 {
		if err := p.change(ctx, c, rules.Rules); err != nil {
			return "", err
		}
		if !p.show {
			return "", nil
		}
		if rules, err = c.Rules(ctx); err != nil {
			return "", err
		}
	}
	return showTables(rules.Rules), nil
}

// An unreachableError is about a control socket at which nobody answers.
type unreachableError struct{ cause error }

// Error implements error.
func (e *unreachableError) Error() string { return e.cause.Error() }

// Unwrap gives the cause.
func (e *unreachableError) Unwrap() error { return e.cause }

// Hint says where such sockets come from.
func (e *unreachableError) Hint() string {
	return "pasta makes the socket when it is started with -c PATH"
}
