package front

import (
	"bufio"
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"taproot/cmd/internal/caller"
	"taproot/internal/engine"
	"taproot/userns"
)

func (p *program) runCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use: "run",
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.check(c.Flags().Changed); err != nil {
				return err
			}
			return p.start(c, &o, args)
		},
	}
	o.register(c.Flags())
	c.Flags().SetInterspersed(false)
	completeValues(c)
	return c
}

// start runs the guest. The exit status is the command's; a command that cannot
// be executed has one too.
func (p *program) start(c *cobra.Command, o *options, command []string) (err error) {
	listeners, service := caller.Listeners(), p.newService() // before the command gets our environment
	defer service.close()
	guest, cfg := o.guest(), o.config()
	cfg.Listeners = listeners
	guest.Command = command
	if len(command) == 0 {
		guest.Command = []string{shell()}
	}
	cfg.Warn = p.warn
	cfg.Log, cfg.Stderr = newLog(p.err, o.verbose), p.err.engine()
	served, err := p.serve(&o.apiOptions, guest.Command[0], o.source, cfg.Log)
	if err != nil {
		return err
	}
	cfg.Ready = func(in *engine.Instance) error {
		if err := p.tellPicked(cfg.Rules, in.Rules.List()); err != nil {
			return err
		}
		served.Start(c.Context(), in, in.Rules)
		service.ready(c.Context(), in)
		return nil
	}
	p.status, err = p.run(c.Context(), guest, cfg)
	closeSocket(served, cfg.Log)
	if err == nil {
		return nil
	}
	if command := (*userns.CommandError)(nil); errors.As(err, &command) {
		p.status = command.Status()
		return err
	}
	p.status = statusFailure
	if hint(err) == "" {
		return p.explain(c.Context(), err)
	}
	return err
}

// newLog returns the log of a run: silent in normal use.
func newLog(w *output, verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	if w.journal {
		return slog.New(newJournalHandler(w, level))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// shell returns the user's shell, as su(1) and script(1) find it.
func shell() string {
	if s := os.Getenv("SHELL"); s != "" {
		return s
	}
	if passwd, err := os.ReadFile("/etc/passwd"); err == nil {
		if s := passwdShell(passwd, os.Getuid()); s != "" {
			return s
		}
	}
	return "/bin/sh"
}

// passwdShell returns the shell of a user in the text of a passwd(5) file, or
// "" if there is none.
func passwdShell(passwd []byte, uid int) string {
	const fields, uidField, shellField = 7, 2, 6 // passwd(5)
	lines := bufio.NewScanner(bytes.NewReader(passwd))
	for lines.Scan() {
		f := strings.Split(lines.Text(), ":")
		if len(f) == fields && f[uidField] == strconv.Itoa(uid) {
			return f[shellField]
		}
	}
	return ""
}

// completeValues gives shells the words that options take.
func completeValues(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		var words []string
		for _, w := range strings.Split(f.Value.Type(), "|") {
			if w == strings.ToLower(w) && w != "bool" {
				words = append(words, w)
			}
		}
		if words == nil {
			return
		}
		// The only error is a second registration for the same option.
		_ = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	})
}
