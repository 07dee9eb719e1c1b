package front

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// An option is what help text and man page must say of a pflag.Flag.
type option struct {
	name   string // "--mtu" or "-v, --verbose"
	preset string
}

// optionsOf lists the options of a command, with those that cobra adds. The
// command lines of other programs have their own tests.
func optionsOf(c *cobra.Command) []option {
	if c.DisableFlagParsing {
		return nil
	}
	c.InitDefaultHelpFlag()
	var list []option
	add := func(f *pflag.Flag) {
		o := option{name: "--" + f.Name, preset: f.DefValue}
		if f.Shorthand != "" {
			o.name = "-" + f.Shorthand + ", " + o.name
		}
		if f.Value.Type() == "bool" && f.DefValue == "false" {
			o.preset = "off"
		}
		if !slices.Contains(list, o) {
			list = append(list, o)
		}
	}
	c.Flags().VisitAll(add)
	if !c.HasParent() {
		return list
	}
	for _, verb := range c.Commands() { // those of ctl share one help
		verb.LocalNonPersistentFlags().VisitAll(add)
	}
	return list
}

// commands returns the root and each command that a user can call.
func commands() []*cobra.Command {
	root := (&program{out: newOutput(nil), err: newOutput(nil)}).root()
	root.InitDefaultHelpCmd()
	return append([]*cobra.Command{root}, root.Commands()...)
}

func TestHelpNamesEachOption(t *testing.T) {
	entry := regexp.MustCompile(`(?s)\n  (?:    |-\w, )--([a-z0-9-]+)[^\n]*`)
	for _, c := range commands() {
		if c.DisableFlagParsing {
			continue
		}
		help := helpOf(c)
		want := map[string]string{}
		for _, o := range optionsOf(c) {
			want[strings.TrimPrefix(o.name[strings.Index(o.name, "--"):], "--")] = o.preset
		}
		found := entry.FindAllStringSubmatchIndex(help, -1)
		for i, at := range found {
			name, end := help[at[2]:at[3]], len(help)
			if i+1 < len(found) {
				end = found[i+1][0]
			}
			text, _, _ := strings.Cut(help[at[0]+1:end], "\n\n")
			preset, ok := want[name]
			if !ok {
				t.Errorf("%s: help names --%s, which is no option", c.CommandPath(), name)
			}
			if suffix := "(default: " + preset + ")"; !strings.HasSuffix(strings.TrimSpace(text), suffix) {
				t.Errorf("%s: help of --%s: got %q, want it to end with %q", c.CommandPath(), name, text, suffix)
			}
			delete(want, name)
		}
		for name := range want {
			t.Errorf("%s: help does not name --%s", c.CommandPath(), name)
		}
	}
}

func TestHelpFits(t *testing.T) {
	for _, c := range commands() {
		for line := range strings.SplitSeq(helpOf(c), "\n") {
			if len(line) > 80 {
				t.Errorf("%s: %d columns: %q", c.CommandPath(), len(line), line)
			}
		}
	}
}

// The man page is edited by hand. Each option is an item of a list,
//
//	.It Fl -mtu Ns = Ns Ar BYTES
//
// whose text ends with "(default: 1500)"; each command with options is a
// subsection. What every command has, --help, stands with the program's own.
func TestManPage(t *testing.T) {
	const path = "../../../docs/man/taproot.1"
	got := manOptions(readPage(t, path))
	maps.Copy(got, manOptions(readPage(t, "../../../docs/man/taproot-ctl.1")))
	for _, c := range commands() {
		name := c.Name()
		if name == "help" && c.HasParent() {
			continue // its only option is --help
		}
		for _, o := range optionsOf(c) {
			if c.HasParent() && strings.HasSuffix(o.name, "--help") {
				continue
			}
			key := name + " " + o.name
			if preset, ok := got[key]; !ok || preset != o.preset {
				t.Errorf("%s: %q: got default %q (found: %v), want %q", path, key, preset, ok, o.preset)
			}
			delete(got, key)
		}
	}
	for key := range got {
		t.Errorf("%s: %q is no option", path, key)
	}
}

func readPage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// manOptions returns the default of each "command --option" in a page.
func manOptions(page string) map[string]string {
	var (
		command = "taproot"
		key     string
		options = map[string]string{}
		item    = regexp.MustCompile(`^\.It Fl (?:(\w) , Fl )?-([a-z0-9-]+)`)
		preset  = regexp.MustCompile(`\(default: (.*?)\)\.?$`)
	)
	for line := range strings.SplitSeq(page, "\n") {
		if name, ok := strings.CutPrefix(line, ".Ss "); ok {
			command, key = name, ""
		}
		if m := item.FindStringSubmatch(line); m != nil {
			key = command + " --" + m[2]
			if m[1] != "" {
				key = command + " -" + m[1] + ", --" + m[2]
			}
			options[key] = ""
		}
		if m := preset.FindStringSubmatch(line); m != nil && key != "" {
			options[key] = m[1]
		}
	}
	return options
}
