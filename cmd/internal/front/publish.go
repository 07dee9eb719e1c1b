package front

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"

	"taproot/portfwd"
)

// portOptions are the options of published ports, as parsed.
type portOptions struct {
	publish []string // each by itself is right
	reach   []portfwd.Rule
	source  portfwd.SourceMode
}

// register adds the options to fs with their defaults.
func (o *portOptions) register(fs *pflag.FlagSet) {
	fs.VarP(&value[[]string]{result: &o.publish, preset: "none", kind: "RULE",
		parse: parsePublish}, "publish", "p", "publish ports of the guest")
	fs.Var(&value[[]portfwd.Rule]{result: &o.reach, preset: "none", kind: "RULE",
		parse: parseReach}, "reach", "ports of the host on the guest's loopback")
	fs.Var(&value[portfwd.SourceMode]{result: &o.source, preset: "preserve", kind: "preserve|gateway",
		parse: last(portfwd.ParseSourceMode)}, "source", "whom the guest sees as client")
}

// parsePublish checks the last value of --publish. What it means is known only
// with --source.
func parsePublish(given []string) ([]string, error) {
	_, err := portfwd.ParsePublish(given[len(given)-1], portfwd.SourcePreserve)
	return append([]string{}, given...), err
}

// parseReach parses all values of --reach together.
func parseReach(given []string) ([]portfwd.Rule, error) {
	var rules []portfwd.Rule
	for _, text := range given {
		more, err := portfwd.ParseReach(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, more...)
	}
	return rules, nil
}

// published returns what checked options publish.
func (o *portOptions) published() portfwd.Published {
	var all portfwd.Published
	for _, text := range o.publish {
		p, err := portfwd.ParsePublish(text, o.source)
		if err != nil {
			continue // not reached: parsePublish has seen it
		}
		all.Rules, all.Auto = append(all.Rules, p.Rules...), append(all.Auto, p.Auto...)
	}
	all.Rules = append(all.Rules, o.reach...)
	return all
}

// tellPicked tells which ports the kernel picked for rules, which are the first
// ones of the list, and which rules wait.
func (p *program) tellPicked(rules []portfwd.Rule, list []portfwd.Entry) error {
	table := tabwriter.NewWriter(p.err, 0, 0, 1, ' ', 0)
	for i, r := range rules[:min(len(rules), len(list))] {
		if list[i].State == portfwd.StateWaiting {
			p.warn(list[i].Err, "it is published as soon as the host has the address")
		}
		if r.Listen.Port() != 0 || r.ListenUnix != "" {
			continue
		}
		r = list[i].Rule
		what := "publish"
		if r.Direction == portfwd.Outbound {
			what = "reach"
		}
		spec, _, _ := strings.Cut(r.Spec(), ",")
		fmt.Fprintf(table, "taproot: %s\t%s\n", what, spec)
	}
	return table.Flush()
}
