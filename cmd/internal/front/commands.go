package front

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"taproot/cmd/internal/front/pasta"
	"taproot/cmd/internal/front/slirp"
)

// root builds the command tree. Nothing of cobra's own wording reaches the
// user: help, errors and suggestions are ours.
func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "taproot",
		SilenceErrors:     true,
		SilenceUsage:      true,
		TraverseChildren:  true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              knownCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			if asked, _ := c.Flags().GetBool("version"); asked {
				return p.printVersion()
			}
			p.err.printf("%s", rootHelp)
			p.status = statusMisuse
			return nil
		},
	}
	root.Flags().Bool("version", false, "print the version")
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { p.out.printf("%s", helpOf(c)) })
	root.SetFlagErrorFunc(badOption)
	root.SetHelpCommand(p.helpCommand())
	root.AddCommand(p.runCommand(), p.attachCommand(), p.ctlCommand(), p.lsCommand())
	root.AddCommand(p.checkCommand(), p.versionCommand(), p.completionCommand())
	root.AddCommand(p.otherCommand(slirp.Name, slirp.Main), p.otherCommand(pasta.Name, pasta.Main))
	root.AddCommand(p.otherCommand(pasta.PestoName, pasta.PestoMain))
	return root
}

func (p *program) helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help",
		RunE: func(c *cobra.Command, args []string) error {
			topic, rest, _ := c.Root().Find(args) // its error is that rest is not empty
			if topic == c.Root() && len(rest) > 0 {
				return unknownCommand(topic, rest[0])
			}
			if err := noOperands(c, rest); err != nil {
				return err
			}
			p.out.printf("%s", helpOf(topic))
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return commandNames(c.Root()), cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// otherCommand is the command line of another program, which is also run when
// argv[0] has its name: what follows is not ours to parse.
func (p *program) otherCommand(name string, main func(name string, args []string, version string) int) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			p.status = main(c.CommandPath(), args, p.version)
			return nil
		},
	}
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Args:              noOperands,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return p.printVersion() },
	}
}

func (p *program) printVersion() error {
	p.out.printf("taproot %s\n", p.version)
	return nil
}

func (p *program) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:       "completion",
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return &misuse{
				err:    errors.New("completion: one shell expected"),
				remedy: "one of: " + strings.Join(shells, ", "),
			}
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(p.out, true)
			case "zsh":
				return c.Root().GenZshCompletion(p.out)
			case "fish":
				return c.Root().GenFishCompletion(p.out, true)
			case "powershell":
				return c.Root().GenPowerShellCompletionWithDesc(p.out)
			}
			return &misuse{
				err:    fmt.Errorf("completion: unknown shell %q", args[0]),
				remedy: "one of: " + strings.Join(shells, ", "),
			}
		},
	}
}

// noOperands is the Args function of commands that take only options.
func noOperands(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &misuse{
		err:    fmt.Errorf("%s: unexpected operand %q", c.Name(), args[0]),
		remedy: helpHint(c),
	}
}

// knownCommand is the Args function of the root, which gets what is no command.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknownCommand(c, args[0])
}

func unknownCommand(root *cobra.Command, name string) error {
	remedy := "commands: " + strings.Join(commandNames(root), ", ")
	if near, ok := nearest(name, commandNames(root)); ok {
		remedy = fmt.Sprintf("did you mean %q?", near)
	}
	return &misuse{err: fmt.Errorf("unknown command %q", name), remedy: remedy}
}

// commandNames returns the names of what the user can call.
func commandNames(root *cobra.Command) []string {
	var names []string
	for _, c := range root.Commands() {
		if !c.Hidden && !strings.HasPrefix(c.Name(), "__") {
			names = append(names, c.Name())
		}
	}
	return names
}

// badOption turns pflag's errors into ours.
func badOption(c *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		return unknownOption(c, unknown)
	case errors.As(err, &missing):
		err = fmt.Errorf("--%s: a value is missing", missing.GetFlag().Name)
	case errors.As(err, &invalid):
		err = fmt.Errorf("--%s=%s: %w", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	}
	remedy := hint(err)
	if remedy == "" {
		remedy = helpHint(c)
	}
	return &misuse{err: err, remedy: remedy}
}

func unknownOption(c *cobra.Command, unknown *pflag.NotExistError) error {
	name := unknown.GetSpecifiedName()
	if group := unknown.GetSpecifiedShortnames(); group != "" {
		return &misuse{err: fmt.Errorf("unknown option -%s", name), remedy: helpHint(c)}
	}
	remedy := helpHint(c)
	if meant, ok := meantOption(c, name); ok {
		remedy = fmt.Sprintf("did you mean --%s?", meant)
	}
	return &misuse{err: fmt.Errorf("unknown option --%s", name), remedy: remedy}
}

// meantOption guesses the option that was meant by name: options of ours are
// positive, so somebody used to "--no-ipv6" gets "--ipv6=off".
func meantOption(c *cobra.Command, name string) (string, bool) {
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	for _, prefix := range []string{"no-", "disable-"} {
		positive, found := strings.CutPrefix(name, prefix)
		f := c.Flags().Lookup(positive)
		if found && f != nil && strings.HasSuffix(f.Value.Type(), "|off") {
			return positive + "=off", true
		}
	}
	return nearest(name, names)
}

// helpHint is the remedy when nothing better is known.
func helpHint(c *cobra.Command) string {
	return "see: " + c.CommandPath() + " --help"
}
