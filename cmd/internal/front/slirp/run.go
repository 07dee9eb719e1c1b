package slirp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"taproot/cmd/internal/caller"
	"taproot/cmd/internal/getopt"
	native "taproot/internal/api"
	"taproot/internal/control"
	"taproot/internal/engine"
)

// Name is what callers exec.
const Name = "slirp4netns"

// statusFailure is slirp4netns's exit status for everything that goes wrong.
const statusFailure = 1

// Main runs the command line args, without the program's name, which is name,
// and returns the exit status. A signal that ends it ends the process too.
// version is ours.
func Main(name string, args []string, version string) int {
	// A caller that no longer reads what we say does not mean us to die.
	signal.Ignore(syscall.SIGPIPE)
	p := &program{name: name, version: version, out: os.Stdout, err: os.Stderr, attach: engine.Attach}
	return p.main(context.Background(), args)
}

// A program is one invocation: where it writes and what it calls. Tests fill it
// with buffers and with a function that only looks at what it gets.
type program struct {
	name, version string
	out, err      io.Writer
	attach        func(context.Context, engine.Attachment, engine.Config) error
}

// main runs one command line and returns the exit status.
func (p *program) main(ctx context.Context, args []string) int {
	o, err := parse(args, p.warn)
	switch {
	case errors.Is(err, errHelp):
		return p.print(Help)
	case errors.Is(err, errVersion):
		return p.print(versionText(p.version))
	case err != nil:
		return p.misuse(err)
	}
	if o.extra {
		p.warn("too many arguments")
	}
	ctx, caught := caller.Signals(ctx)
	err = p.serve(ctx, o)
	if s := caught(); s != 0 {
		return caller.DieBy(s)
	}
	if err != nil {
		p.complain(err)
		return statusFailure
	}
	return 0
}

// print writes what the user asked to see.
func (p *program) print(text string) int {
	if _, err := io.WriteString(p.out, text); err != nil {
		p.complain(err)
		return statusFailure
	}
	return 0
}

// warn writes a warning where slirp4netns does.
func (p *program) warn(text string) { fmt.Fprintf(p.out, "WARNING: %s\n", text) }

// misuse says what is wrong with a command line.
func (p *program) misuse(err error) int {
	var unknown *getopt.UsageError
	var wrong *usageError
	switch {
	case errors.As(err, &unknown):
		fmt.Fprintf(p.err, "%s: %v\n", p.name, unknown)
		_, _ = io.WriteString(p.out, Help)
	case errors.As(err, &wrong):
		if wrong.text != "" {
			fmt.Fprintln(p.err, wrong.text)
		}
		_, _ = io.WriteString(p.out, Help)
	default:
		fmt.Fprintln(p.err, err)
	}
	return statusFailure
}

// complain says why there is no network, and what can be done about it.
func (p *program) complain(err error) {
	fmt.Fprintf(p.err, "%s: %v\n", p.name, err)
	if hint, _ := caller.Hint(err); hint != "" {
		fmt.Fprintf(p.err, "%s: hint: %s\n", p.name, hint)
	}
}

// errHungUp is why a network ends whose exit descriptor hung up.
var errHungUp = errors.New("exit descriptor hung up")

// serve gives the namespace its network until it is gone, ctx ends or the exit
// descriptor hangs up, which are no errors.
func (p *program) serve(ctx context.Context, o *options) (err error) {
	ready, exit, device := o.descriptors()
	ctx, leave := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer leave(nil)

	var api *control.Server
	if o.api != "" {
		if api, err = o.listenAPI(); err != nil {
			return err
		}
		defer api.Close()
		// Right away, and not when everything else has ended: the next
		// instance may be waiting for the path.
		defer context.AfterFunc(ctx, func() { api.Close() })()
	}
	a, err := p.attachment(ctx, o, device)
	if err != nil {
		return err
	}
	if a.Device != nil {
		defer a.Device.Close()
	}
	cfg := o.config()
	cfg.Log = slog.New(slog.NewTextHandler(p.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cfg.Warn = func(message, _ string) { // hints name options of taproot's own
		fmt.Fprintf(p.err, "%s: warning: %s\n", p.name, message)
	}
	ours, err := native.ListenAsked(native.Config{Name: native.NewName(Name), Version: p.version, Closed: o.closed(), Log: cfg.Log})
	if err != nil {
		cfg.Warn("no API socket: "+err.Error(), "")
	}
	defer ours.Close()
	cfg.Ready = func(i *engine.Instance) error {
		o.describe(p.out)
		ours.Start(ctx, i, i.Rules)
		if api != nil {
			wg.Go(func() { api.Run(ctx, forwards{i.Rules}) })
		}
		ready.Ready()
		wg.Go(func() {
			if exit.HungUp(ctx) {
				fmt.Fprintln(p.err, "exitfd event")
				leave(errHungUp)
			}
		})
		return nil
	}
	err = p.attach(ctx, a, cfg)
	if errors.Is(context.Cause(ctx), errHungUp) {
		fmt.Fprintln(p.err, "do_slirp is exiting")
		return nil
	}
	return err
}

// closed returns what the options close, and taproot's API is not to open.
func (o *options) closed() []native.Closed {
	if !o.disableLoopback {
		return nil
	}
	return native.ClosedHost("--disable-host-loopback")
}

// descriptors takes what the caller passed by number.
func (o *options) descriptors() (ready, exit, device caller.Descriptor) {
	for _, d := range []struct {
		number int
		to     *caller.Descriptor
	}{{o.readyFD, &ready}, {o.exitFD, &exit}, {o.tapFD, &device}} {
		if d.number >= 0 {
			*d.to = caller.Take(d.number)
		}
	}
	caller.Seal()
	return ready, exit, device
}

// maxAPI is the longest path of an API socket in bytes.
const maxAPI = 107

// listenAPI makes the API socket.
func (o *options) listenAPI() (*control.Server, error) {
	if len(o.api) > maxAPI {
		return nil, errors.New("the specified API socket path is too long (>= 108)")
	}
	return control.Listen(o.api, control.Config{Guest: offsetIn(o.network, guestOffset)})
}
