package pasta

import (
	"fmt"
	"strconv"
	"strings"

	"taproot/internal/api"
	"taproot/portfwd"
)

// pestoUsage is shown with what is wrong with the options.
const pestoUsage = `Usage: pesto [OPTION]... PATH
'pesto --help' lists the options.
`

// PestoHelp is the help text, written by hand.
const PestoHelp = `Usage: pesto [OPTION]... PATH

Show or change the ports of a running pasta, whose control socket (pasta -c
PATH) is at PATH (this is taproot). Without options the ports are shown.

Options are carried out in their order, all or, if one cannot be, none:
  -s, --show              show the ports, as they are afterwards
  -A, --add               add what the options behind this one name
  -D, --delete            delete it
  -C, --clear TABLE       delete all of HOST (-t and -u) or SPLICE (-T and -U)
  -t, --tcp-ports SPEC    TCP ports of the namespace, reached from the host
  -u, --udp-ports SPEC    UDP ports of the namespace, reached from the host
  -T, --tcp-ns SPEC       TCP ports of the host, reached from the namespace
  -U, --udp-ns SPEC       UDP ports of the host, reached from the namespace
                          Without -A, -D and -C before it, the first one of a
                          table replaces the table. SPEC is as in pasta --help
  -h, --help              print this help and exit
      --version           print the version and exit

Connections of deleted ports go on. What an auto has published goes with it.
pesto(1) of taproot tells more: man taproot-pesto.
`

// pestoVersionText returns what --version prints.
func pestoVersionText(version string) string {
	return "pesto taproot-" + version + "\n" +
		"This is taproot under the name of pesto. It follows pasta of July 2026.\n"
}

// showTables writes the rules as options, under their tables.
func showTables(rules []api.Rule) string {
	var b strings.Builder
	for _, t := range [...]struct {
		name      string
		direction portfwd.Direction
	}{{tableHost, portfwd.Inbound}, {tableSplice, portfwd.Outbound}} {
		fmt.Fprintln(&b, t.name)
		for i := range rules {
			if rules[i].Direction == t.direction.String() {
				fmt.Fprintln(&b, "  "+showRule(&rules[i]))
			}
		}
	}
	return b.String()
}

// showRule writes a rule as an option, and behind it what no option says.
func showRule(r *api.Rule) string {
	var notes []string
	if r.By != 0 {
		notes = append(notes, wordAuto)
	}
	if r.State != portfwd.StateOpen.String() && r.Follows == "" {
		notes = append(notes, r.State)
	}
	if r.Error != "" {
		notes = append(notes, r.Error)
	}
	if r.Bound < r.Ports && r.State == portfwd.StateOpen.String() {
		notes = append(notes, fmt.Sprintf("%d of %d ports", r.Bound, r.Ports))
	}
	s := optionText(r)
	if len(notes) > 0 {
		s += "  # " + strings.Join(notes, ", ")
	}
	return s
}

// optionText writes a rule as the option that makes it, or as a comment if there
// is none.
func optionText(r *api.Rule) string {
	rule, err := r.Rule()
	if err != nil || r.Follows == wordNone || rule.ListenUnix != "" || rule.TargetUnix != "" || rule.Proxy != 0 ||
		rule.Source != portfwd.SourcePreserve || rule.Local && !rule.Loopback {
		return "# " + rule.String()
	}
	var s strings.Builder
	for i, on := range sides {
		if on == (side{rule.Direction, rule.Proto}) {
			s.WriteString("-" + portOptions[i].short + " ")
		}
	}
	if a := rule.Listen.Addr(); a.IsValid() && rule.Direction == portfwd.Inbound {
		s.WriteString(a.String())
	}
	if rule.Device != "" {
		s.WriteString("%" + rule.Device)
	}
	if rule.Direction == portfwd.Inbound && (rule.Device != "" || rule.Listen.Addr().IsValid()) {
		s.WriteString("/")
	}
	if r.Follows != "" {
		s.WriteString(autoText(r.Follows))
		return s.String()
	}
	s.WriteString(rangeText(rule.Listen.Port(), rule.Count()))
	target := rangeText(targetPort(rule), rule.Count())
	switch a := rule.Target.Addr(); {
	case a.Is6():
		s.WriteString(":[" + a.String() + "]/" + target)
	case a.IsValid():
		s.WriteString(":" + a.String() + "/" + target)
	case targetPort(rule) != rule.Listen.Port():
		s.WriteString(":" + target)
	}
	return s.String()
}

// autoText writes the ports of an automatic rule as an option has them.
func autoText(follows string) string {
	if follows == wordAll {
		return wordAuto
	}
	return follows + "," + wordAuto
}

// rangeText writes ports as parseRange reads them.
func rangeText(first uint16, n int) string {
	s := strconv.Itoa(int(first))
	if n > 1 {
		s += "-" + strconv.Itoa(int(first)+n-1)
	}
	return s
}
