package front

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"taproot/cmd/internal/caller"
	"taproot/internal/engine"
	"taproot/userns"
)

// attachOptions are the options of `attach`.
type attachOptions struct {
	netOptions
	userns                 string
	tapFD, readyFD, exitFD int // -1: none
	configure              bool
	verbose                bool
	apiOptions
}

// attachCommand gives a namespace that exists a network.
func (p *program) attachCommand() *cobra.Command {
	var o attachOptions
	c := &cobra.Command{
		Use: "attach",
		RunE: func(c *cobra.Command, operands []string) error {
			to, err := o.check(c.Flags().Changed, operands)
			if err != nil {
				return err
			}
			return p.startAttached(c.Context(), &o, to)
		},
	}
	o.register(c.Flags())
	completeValues(c)
	return c
}

// register adds the options to fs with their defaults.
func (o *attachOptions) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	o.tapFD, o.readyFD, o.exitFD, o.configure = -1, -1, -1, true
	fs.Var(&value[string]{result: &o.userns, preset: "the owner", kind: "PATH",
		parse: last(parsePath)}, "userns", "user namespace to join first")
	fs.Var(&value[int]{result: &o.tapFD, preset: "none", kind: "FD",
		parse: last(parseFD)}, "tap-fd", "TAP device that the caller opened")
	fs.Var(&value[bool]{result: &o.configure, preset: "on", kind: "on|off",
		parse: last(parseSwitch)}, "configure", "set addresses, MTU and routes of the device")
	fs.Var(&value[int]{result: &o.readyFD, preset: "none", kind: "FD",
		parse: last(parseFD)}, "ready-fd", "gets a byte when the network works")
	fs.Var(&value[int]{result: &o.exitFD, preset: "none", kind: "FD",
		parse: last(parseFD)}, "exit-fd", "ends it when it hangs up")
	o.netOptions.register(fs)
	o.apiOptions.register(fs)
	fs.BoolVarP(&o.verbose, "verbose", "v", false, "log each step")
}

// check finds what is wrong although each option by itself is right, and
// returns the namespace that is meant; the zero Target stands for none.
func (o *attachOptions) check(changed func(option string) bool, operands []string) (userns.Target, error) {
	if err := o.netOptions.check(changed); err != nil {
		return userns.Target{}, err
	}
	if err := o.apiOptions.check(); err != nil {
		return userns.Target{}, err
	}
	const remedy = "see: taproot attach --help"
	switch {
	case !o.configure && changed("mac"):
		return userns.Target{}, exclusive("--configure=off", "--mac")
	case len(operands) > 1:
		return userns.Target{}, &misuse{fmt.Errorf("attach: unexpected operand %q", operands[1]), remedy}
	case !changed("tap-fd") && len(operands) == 0:
		return userns.Target{}, &misuse{errors.New("attach: a namespace is missing"), remedy}
	case !changed("tap-fd"):
		return o.target(operands[0])
	case len(operands) > 0:
		return userns.Target{}, exclusive("--tap-fd", operands[0])
	}
	for _, name := range []string{"userns", "configure", "ifname", "mac", "reach"} {
		if changed(name) {
			return userns.Target{}, exclusive("--tap-fd", "--"+name)
		}
	}
	return userns.Target{}, nil
}

// target finds out which namespace an operand means: a number is a process,
// what has a slash a path, anything else a name that somebody gave it.
func (o *attachOptions) target(operand string) (userns.Target, error) {
	if strings.Trim(operand, "0123456789") == "" {
		pid, err := strconv.ParseUint(operand, 10, 31)
		if err != nil || pid == 0 {
			return userns.Target{}, &misuse{fmt.Errorf("attach: no process id: %q", operand), ""}
		}
		return userns.Target{PID: int(pid), UserNS: o.userns}, nil
	}
	if strings.Contains(operand, "/") {
		return userns.Target{NetNS: operand, UserNS: o.userns}, nil
	}
	directories := namespaceDirs()
	for _, d := range directories {
		path := filepath.Join(d, operand)
		if _, err := os.Stat(path); err == nil {
			return userns.Target{NetNS: path, UserNS: o.userns}, nil
		}
	}
	return userns.Target{}, &explained{
		fmt.Errorf("attach %s: no such namespace in %s", operand, strings.Join(directories, " or ")),
		"name a process by its number, and any namespace by its path: ./" + operand,
	}
}

// namespaceDirs are where namespaces have names: the user's own, then those
// that ip-netns(8) makes.
func namespaceDirs() []string {
	const system = "/run/netns"
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return []string{filepath.Join(dir, "netns"), system}
	}
	return []string{system}
}

// errHungUp is why a network ends whose exit descriptor hung up.
var errHungUp = errors.New("exit descriptor hung up")

// startAttached serves a namespace until it is gone, the exit descriptor hangs
// up, or a signal comes, which ends the process.
func (p *program) startAttached(ctx context.Context, o *attachOptions, to userns.Target) error {
	listeners, service := caller.Listeners(), p.newService() // before take closes the others
	defer service.close()
	d, err := o.take()
	if err != nil {
		return err
	}
	a := engine.Attachment{Target: to, Bare: !o.configure, Follow: userns.FollowHolders}
	if d.tap.Open() {
		if a.Device, err = d.tap.File(); err != nil {
			return err
		}
		defer a.Device.Close()
	}
	cfg := o.config()
	cfg.Listeners = listeners
	cfg.Warn = p.warn
	cfg.Log, cfg.Stderr = newLog(p.err, o.verbose), p.err.engine()

	served, err := p.serve(&o.apiOptions, "attach", o.source, cfg.Log)
	if err != nil {
		return err
	}
	ctx, caught := caller.Signals(ctx)
	ctx, leave := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	cfg.Ready = func(in *engine.Instance) error {
		if err := p.tellPicked(cfg.Rules, in.Rules.List()); err != nil {
			return err
		}
		served.Start(ctx, in, in.Rules)
		service.ready(ctx, in)
		d.ready.Ready()
		wg.Go(func() {
			if d.exit.HungUp(ctx) {
				leave(errHungUp)
			}
		})
		return nil
	}
	err = p.attach(ctx, a, cfg)
	hungUp := errors.Is(context.Cause(ctx), errHungUp)
	leave(nil)
	closeSocket(served, cfg.Log)
	wg.Wait()
	if s := caught(); s != syscall.Signal(0) {
		p.status = caller.DieBy(s)
		return nil
	}
	if hungUp {
		return nil
	}
	return err
}

// attachDescriptors are those that the options name.
type attachDescriptors struct{ ready, exit, tap caller.Descriptor }

// take takes the descriptors that the options name.
func (o *attachOptions) take() (d attachDescriptors, err error) {
	for _, f := range []struct {
		option string
		number int
		to     *caller.Descriptor
	}{{"ready-fd", o.readyFD, &d.ready}, {"exit-fd", o.exitFD, &d.exit}, {"tap-fd", o.tapFD, &d.tap}} {
		if f.number < 0 {
			continue
		}
		if *f.to = caller.Take(f.number); !f.to.Open() {
			return d, &misuse{
				err:    fmt.Errorf("--%s=%d: not an open descriptor", f.option, f.number),
				remedy: fmt.Sprintf("a shell opens it with: %d>FILE", f.number),
			}
		}
	}
	caller.Seal()
	return d, nil
}

// parseFD parses the number of a descriptor.
func parseFD(s string) (int, error) {
	fd, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, errors.New("not the number of a descriptor")
	}
	return int(fd), nil
}

// parsePath parses the path of something that is there.
func parsePath(s string) (string, error) {
	_, err := os.Stat(s)
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		return "", path.Err
	}
	return s, err
}
