package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"taproot/internal/api"
)

// ctlVerbs are the commands of `ctl`, which are no names of instances.
func ctlVerbs() []string {
	return []string{"info", "ports", "publish", "unpublish", "flows", "stats", "events", "restart", "help"}
}

// A ctl is one invocation of `ctl`.
type ctl struct {
	*program
	instance string // name, or path of a socket; "" means the only one
	asJSON   bool
}

// ctlCommand looks into an instance, and changes it.
func (p *program) ctlCommand() *cobra.Command {
	x := &ctl{program: p}
	c := &cobra.Command{
		Use: "ctl",
		RunE: func(c *cobra.Command, operands []string) error {
			if len(operands) == 0 {
				return &misuse{errors.New("ctl: a command is missing"), helpHint(c)}
			}
			return unknownVerb(c, operands[0])
		},
		ValidArgsFunction: func(_ *cobra.Command, operands []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(operands) > 0 || x.instance != "" {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return api.Names(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.PersistentFlags().StringVar(&x.instance, "instance", "", "name of the instance")
	c.PersistentFlags().Lookup("instance").DefValue = "the only one"
	c.PersistentFlags().BoolVar(&x.asJSON, "json", false, "print JSON")
	_ = c.RegisterFlagCompletionFunc("instance", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return api.Names(), cobra.ShellCompDirectiveNoFileComp
	}) // the only error is a second registration
	c.AddCommand(x.simple("info", x.info), x.simple("ports", x.ports), x.simple("stats", x.stats), x.simple("events", x.events))
	c.AddCommand(x.publishCommand(), x.unpublishCommand(), x.flowsCommand(), x.restartCommand())
	return c
}

func unknownVerb(c *cobra.Command, name string) error {
	remedy := "commands: " + strings.Join(commandNames(c), ", ")
	if near, ok := nearest(name, commandNames(c)); ok {
		remedy = fmt.Sprintf("did you mean %q?", near)
	}
	return &misuse{fmt.Errorf("ctl: unknown command %q", name), remedy}
}

// nameFirst turns "ctl NAME ..." into "ctl --instance=NAME ...", also in the
// words of a shell that completes them.
func nameFirst(args []string) []string {
	at := 0
	if len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd) {
		at = 1
	}
	if len(args) < at+2 || args[at] != "ctl" || at == 1 && len(args) < at+3 { // the last word is being completed
		return args
	}
	name := args[at+1]
	if strings.HasPrefix(name, "-") || slices.Contains(ctlVerbs(), name) {
		return args
	}
	if at == 0 && len(args) == at+2 && !slices.Contains(api.Names(), name) && !strings.Contains(name, "/") {
		return args // a verb that is misspelt, rather
	}
	return slices.Concat(args[:at+1], []string{"--instance=" + name}, args[at+2:])
}

// simple is a command without operands and options of its own.
func (x *ctl) simple(name string, do func(context.Context, *api.Client) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Args: noOperands, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return x.with(c.Context(), do) },
	}
}

// with calls do with a client of the instance that is meant.
func (x *ctl) with(ctx context.Context, do func(context.Context, *api.Client) error) error {
	path, err := x.socket(ctx)
	if err != nil {
		return err
	}
	c := api.NewClient(path)
	defer c.Close()
	return do(ctx, c)
}

// socket returns where the instance is that is meant.
func (x *ctl) socket(ctx context.Context) (string, error) {
	if strings.Contains(x.instance, "/") {
		return x.instance, nil
	}
	found, err := api.List(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, f := range found {
		if f.Name == x.instance {
			return api.Path(f.Name), nil
		}
		names = append(names, f.Name)
	}
	switch {
	case len(names) == 0 && x.instance == "":
		return "", &explained{errors.New("no instance runs"), "taproot run makes one; one with --api=PATH is named by its path"}
	case len(names) == 0:
		return "", &explained{fmt.Errorf("no instance %q runs, nor any other", x.instance), "one with --api=PATH is named by its path"}
	case x.instance != "":
		return "", &misuse{fmt.Errorf("no instance %q runs", x.instance), "instances: " + strings.Join(names, ", ")}
	case len(names) > 1:
		return "", &misuse{errors.New("which instance? There are several"), "instances: " + strings.Join(names, ", ")}
	}
	return api.Path(names[0]), nil
}

func (x *ctl) info(ctx context.Context, c *api.Client) error {
	info, err := c.Info(ctx)
	if err == nil {
		x.show(info, func() { x.printInfo(&info) })
	}
	return err
}

func (x *ctl) ports(ctx context.Context, c *api.Client) error {
	rules, err := c.Rules(ctx)
	if err == nil {
		x.show(rules, func() { x.printRules(&rules) })
	}
	return err
}

func (x *ctl) stats(ctx context.Context, c *api.Client) error {
	stats, err := c.Stats(ctx)
	if err == nil {
		x.show(stats, func() { x.printStats(&stats) })
	}
	return err
}

// events prints what happens until the instance leaves.
func (x *ctl) events(ctx context.Context, c *api.Client) error {
	err := c.Events(ctx, func(e api.Event) error {
		if x.asJSON {
			x.printLine(e)
		} else {
			x.printEvent(&e)
		}
		return x.out.failure()
	})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (x *ctl) unpublishCommand() *cobra.Command {
	var kill bool
	c := &cobra.Command{
		Use: "unpublish",
		ValidArgsFunction: func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return x.ruleIDs(c.Context()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, operands []string) error {
			if len(operands) == 0 {
				return &misuse{errors.New("unpublish: an id is missing"), "taproot ctl ports shows them"}
			}
			ids, err := parseIDs(operands)
			if err != nil {
				return err
			}
			return x.with(c.Context(), func(ctx context.Context, client *api.Client) error {
				return unpublish(ctx, client, ids, kill)
			})
		},
	}
	c.Flags().BoolVar(&kill, "kill", false, "end its connections too")
	return c
}

// unpublish removes rules, as many of them as there are.
func unpublish(ctx context.Context, c *api.Client, ids []int, kill bool) error {
	remove := c.Unpublish
	if kill {
		remove = c.UnpublishKill
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, remove(ctx, id))
	}
	return errors.Join(errs...)
}

func parseIDs(operands []string) ([]int, error) {
	var ids []int
	for _, s := range operands {
		id, err := strconv.ParseUint(s, 10, 31)
		if err != nil || id == 0 {
			return nil, &misuse{fmt.Errorf("%q is not the id of a rule", s), "taproot ctl ports shows them"}
		}
		ids = append(ids, int(id))
	}
	return ids, nil
}

// ruleIDs returns the ids of rules, with what they are, for completion.
func (x *ctl) ruleIDs(ctx context.Context) (words []string) {
	_ = x.with(ctx, func(ctx context.Context, c *api.Client) error { // without an instance there are none
		rules, err := c.Rules(ctx)
		for i := range rules.Rules {
			r := &rules.Rules[i]
			words = append(words, fmt.Sprintf("%d\t%s to %s", r.ID, listens(r), leads(r)))
		}
		return err
	})
	return words
}

// flowFilters are the options of `flows` that say which are meant, as the API
// calls them.
func flowFilters() []string {
	return []string{"proto", "direction", "way", "address", "port", "rule", "id"}
}

func (x *ctl) flowsCommand() *cobra.Command {
	var kill, all bool
	given := make(map[string]*[]string)
	c := &cobra.Command{
		Use: "flows", Args: noOperands, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			filter := make(url.Values)
			for name, values := range given {
				if len(*values) > 0 {
					filter[name] = *values
				}
			}
			if all {
				filter.Set("all", "1")
			}
			if kill && len(filter) == 0 {
				return &misuse{errors.New("flows --kill: which?"), "--all means all"}
			}
			return x.with(c.Context(), func(ctx context.Context, client *api.Client) error {
				return x.flows(ctx, client, filter, kill)
			})
		},
	}
	for _, name := range flowFilters() {
		given[name] = c.Flags().StringArray(name, nil, "only these")
		c.Flags().Lookup(name).DefValue = "any"
	}
	c.Flags().BoolVar(&all, "all", false, "all of them, with --kill")
	c.Flags().BoolVar(&kill, "kill", false, "end them")
	_ = c.RegisterFlagCompletionFunc("rule", func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return x.ruleIDs(c.Context()), cobra.ShellCompDirectiveNoFileComp
	})
	for name, words := range map[string][]string{
		"proto": {"tcp", "udp", "icmp"}, "direction": {"inbound", "outbound"}, "way": {"frames", "shortcut"},
	} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	return c
}

// flows shows flows, or ends them.
func (x *ctl) flows(ctx context.Context, c *api.Client, filter url.Values, kill bool) error {
	if kill {
		killed, err := c.Kill(ctx, filter)
		if err == nil {
			x.show(killed, func() { x.out.printf("%d ended\n", killed.Killed) })
		}
		return err
	}
	flows, err := c.Flows(ctx, filter)
	if err == nil {
		x.show(flows, func() { x.printFlows(&flows) })
	}
	return err
}
