package policytest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocument wants the tables of docs/policy.md to be these, and shows them if
// they are not.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile("../../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"destinations": destinations(), "sources": sources()} {
		if !strings.Contains(string(b), want) {
			t.Errorf("docs/policy.md has not the table of %s; it is:\n%s", name, want)
		}
	}
}

// destinations returns the table of Destinations in Markdown.
func destinations() string {
	var b strings.Builder
	b.WriteString("| Destination | What it is | Rule | The guest sees |\n|---|---|---|---|\n")
	for _, d := range Destinations() {
		rule := "allowed"
		if d.Rule != "" {
			rule = "`" + d.Rule + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %v |\n", d.Address, d.Is, rule, d.Seen)
	}
	return b.String()
}

// sources returns the table of Sources in Markdown.
func sources() string {
	var b strings.Builder
	b.WriteString("| Source | What it is | |\n|---|---|---|\n")
	for _, s := range Sources() {
		verdict := "dropped"
		if s.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Address, s.Is, verdict)
	}
	return b.String()
}
