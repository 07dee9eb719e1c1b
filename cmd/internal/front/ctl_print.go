package front

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"taproot/internal/api"
)

// show prints an answer, as JSON if that was asked for. The fields are those of
// the API.
func (x *ctl) show(answer any, table func()) {
	if !x.asJSON {
		table()
		return
	}
	x.printJSON(answer)
}

// printJSON prints a value over several lines. The only error can be that of the
// stream, which remembers it.
func (p *program) printJSON(v any) {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}

// plain returns text without what moves a terminal's cursor or a table's columns:
// paths are others' words, and the engine has read what the guest sent.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// printLine prints a value on one line.
func (p *program) printLine(v any) {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // as printJSON
}

// table prints lines whose columns are aligned.
func (p *program) table(lines [][]string) {
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	for _, line := range lines {
		for i, cell := range line {
			line[i] = plain(cell)
		}
		fmt.Fprintln(w, strings.Join(line, "\t"))
	}
	_ = w.Flush() // the stream remembers its failure
}

func (x *ctl) printInfo(i *api.Info) {
	lines := [][]string{
		{"name", i.Name}, {"process", strconv.Itoa(i.PID)}, {"version", i.Version}, {"age", age(i.Started)}, {"socket", i.Socket},
		{"engine", fmt.Sprintf("%s for %s, started again %d times", i.Engine.State, age(i.Engine.Since), i.Engine.Restarts) + because(i.Engine.Why)},
		{"program", i.Engine.Binary}, {"rolled back", i.Engine.RolledBack},
		{"namespace", namespaceText(&i.Guest)},
		{"device", fmt.Sprintf("%s, MTU %d, offload %s", i.Guest.Interface, i.Guest.MTU, onOff(i.Guest.Offload))},
		{"addresses", join(i.Guest.Addresses)}, {"gateway", join(i.Guest.Gateways)}, {"resolver", join(i.Guest.Resolvers)},
		{"shortcut", onOff(i.Shortcut.On) + because(i.Shortcut.Why)},
		{"sandbox", sandboxText(&i.Sandbox)},
	}
	x.table(slices.DeleteFunc(lines, func(l []string) bool { return l[1] == "" }))
}

// sandboxText says what the engine has given up.
func sandboxText(s *api.Sandbox) string {
	parts := []string{s.Mode}
	for _, step := range s.Steps {
		text := step.Name + " " + onOff(step.On)
		if step.Detail != "" {
			text += " (" + step.Detail + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

func (x *ctl) printRules(rules *api.Rules) {
	lines := [][]string{{"ID", "PROTO", "LISTENS", "LEADS TO", "STATE", "LIVE", "TOTAL", "SENT", "RECEIVED"}}
	for i := range rules.Rules {
		r := &rules.Rules[i]
		line := []string{strconv.Itoa(r.ID), r.Proto, listens(r), leads(r), ruleState(r), "-", "-", "-", "-"}
		if n := r.Counters; n != nil {
			line = append(line[:5], strconv.Itoa(n.Live), strconv.FormatUint(n.Opened, 10), size(n.BytesToTarget), size(n.BytesToInitiator))
		}
		lines = append(lines, line)
	}
	x.table(lines)
}

// listens says what a rule listens on.
func listens(r *api.Rule) string {
	ports := portsText(r.Listen.Port, r.Ports)
	switch r.Follows {
	case "":
	case "all":
		ports = "auto"
	default:
		ports = "auto:" + r.Follows
	}
	if r.Direction == "outbound" {
		return "guest " + end(r.Listen, ports, "loopback")
	}
	anywhere := "*"
	if r.Local {
		anywhere = "loopback"
	}
	return end(r.Listen, ports, anywhere)
}

// leads says where a rule leads to.
func leads(r *api.Rule) string {
	first := r.Target.Port
	if first == 0 {
		first = r.Listen.Port
	}
	ports := portsText(first, r.Ports)
	if r.Follows != "" {
		ports = "same"
	}
	if r.Direction == "outbound" {
		return "host " + end(r.Target, ports, "loopback")
	}
	if r.Loopback {
		return end(r.Target, ports, "loopback")
	}
	return end(r.Target, ports, "guest")
}

// portsText writes n ports from the first one on.
func portsText(first uint16, n int) string {
	s := strconv.Itoa(int(first))
	if n > 1 {
		s += "-" + strconv.Itoa(int(first)+n-1)
	}
	return s
}

// end writes one end of a rule. anywhere stands for an address that is not
// there.
func end(e api.End, ports, anywhere string) string {
	if e.Unix != "" {
		return "unix:" + e.Unix
	}
	if e.Address.IsValid() {
		anywhere = netip.AddrPortFrom(e.Address, 0).String()
		anywhere = strings.TrimSuffix(anywhere, ":0")
	}
	return anywhere + ":" + ports
}

func ruleState(r *api.Rule) string {
	s := r.State
	if r.By != 0 {
		s += fmt.Sprintf(", by rule %d", r.By)
	}
	if r.Bound < r.Ports && r.State == "open" {
		s += fmt.Sprintf(", %d of %d", r.Bound, r.Ports)
	}
	return s + because(r.Error)
}

func (x *ctl) printFlows(flows *api.Flows) {
	lines := [][]string{{"ID", "PROTO", "DIRECTION", "INITIATOR", "TARGET", "WAY", "RULE", "AGE", "SENT", "RECEIVED"}}
	for _, f := range flows.Flows {
		rule := "-"
		if f.Rule != 0 {
			rule = strconv.Itoa(f.Rule)
		}
		lines = append(lines, []string{
			strconv.FormatUint(f.ID, 10), f.Proto, f.Direction, f.Initiator.String(), f.Target.String(), f.Way, rule,
			age(f.Opened), size(f.BytesToTarget), size(f.BytesToInitiator),
		})
	}
	x.table(lines)
}

func (x *ctl) printStats(s *api.Stats) {
	lines := [][]string{{"FLOWS", "LIVE", "PEAK", "LIMIT", "TOTAL", "REFUSED", "SENT", "RECEIVED"}}
	for _, name := range []string{"tcp", "udp", "icmp"} {
		p := s.Protocols[name]
		lines = append(lines, []string{
			name, strconv.Itoa(p.Live), strconv.Itoa(p.Peak), strconv.Itoa(p.Limit), strconv.FormatUint(p.Opened, 10),
			strconv.FormatUint(p.Refused, 10), size(p.BytesToTarget), size(p.BytesToInitiator),
		})
	}
	x.table(lines)
	x.out.printf("\n%d flows take the shortcut; the engine counts for %s\n\n", s.Shortcut, age(s.Since))
	lines = [][]string{{"LIMIT OF", "NOW", "LIMIT", "REFUSED"}}
	for _, name := range slices.Sorted(maps.Keys(s.Limits)) {
		l := s.Limits[name]
		most := "-"
		if l.Limit > 0 {
			most = strconv.FormatUint(l.Limit, 10)
		}
		lines = append(lines, []string{name, strconv.FormatUint(l.Now, 10), most, strconv.FormatUint(l.Refused, 10)})
	}
	x.table(lines)
	x.out.printf("\n")
	lines = [][]string{{"COUNTER", "VALUE"}}
	for _, name := range slices.Sorted(maps.Keys(s.Counters)) {
		lines = append(lines, []string{name, strconv.FormatUint(s.Counters[name], 10)})
	}
	x.table(lines)
}

func (x *ctl) printEvent(e *api.Event) {
	x.out.printf("%s  %s\n", e.Time.Local().Format(time.TimeOnly), plain(e.Event+because(e.Why)))
	rules := e.Rules
	if e.Rule != nil {
		rules = append(rules, *e.Rule)
	}
	for i := range rules {
		r := &rules[i]
		x.out.printf("          %s\n", plain(fmt.Sprintf("rule %d: %s %s to %s, %s", r.ID, r.Proto, listens(r), leads(r), ruleState(r))))
	}
}

// lsCommand lists the user's instances.
func (p *program) lsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "ls", Args: noOperands, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			found, err := api.List(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				p.printJSON(infos(found))
			} else {
				p.printFound(found)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// infos are the instances that have said what they are.
func infos(found []api.Found) []api.Info {
	list := []api.Info{} // not null
	for _, f := range found {
		if f.Err == nil {
			list = append(list, f.Info)
		}
	}
	return list
}

func (p *program) printFound(found []api.Found) {
	lines := [][]string{{"NAME", "PROCESS", "NAMESPACE", "ADDRESSES", "ENGINE", "AGE"}}
	for i := range found {
		f := &found[i]
		if f.Err != nil {
			lines = append(lines, []string{f.Name, "-", "-", "-", "no answer", "-"})
			continue
		}
		lines = append(lines, []string{
			f.Name, strconv.Itoa(f.Info.PID), namespaceText(&f.Info.Guest), join(f.Info.Guest.Addresses), f.Info.Engine.State, age(f.Info.Started),
		})
	}
	p.table(lines)
}

// namespaceText names the guest's network namespace.
func namespaceText(g *api.Guest) string {
	if g.PID == 0 {
		return g.NetNS
	}
	return fmt.Sprintf("net:[%d] of process %d", g.NetNSInode, g.PID)
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// join writes a list on one line.
func join[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}

// age says how long ago a time is, in the two largest units.
func age(since time.Time) string {
	d := max(0, time.Since(since))
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// size writes a number of bytes with one decimal and its unit.
func size(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, units := float64(n)/1000, []string{"kB", "MB", "GB", "TB", "PB", "EB"}
	for v >= 999.95 && len(units) > 1 {
		v, units = v/1000, units[1:]
	}
	return fmt.Sprintf("%.1f %s", v, units[0])
}
