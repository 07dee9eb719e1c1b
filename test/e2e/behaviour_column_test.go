package e2e

import (
	"strconv"
	"strings"
	"testing"

	"taproot/test/lab"
)

// A column is one way to connect a guest to the host's network.
type column struct {
	name     string
	shortcut bool // connections bypass the stack
	guest    func(t *testing.T, l *lab.Lab) *lab.Namespace
}

// columns are the three ways that have to agree; the first is how things are.
func columns() []column {
	return []column{
		{"kernel", false, func(_ *testing.T, l *lab.Lab) *lab.Namespace { return l.Behind("guest") }},
		{"stack", false, inTaproot()},
	}
}

// inTaproot starts a guest with these options and returns its network.
func inTaproot(options ...string) func(t *testing.T, l *lab.Lab) *lab.Namespace {
	return func(t *testing.T, l *lab.Lab) *lab.Namespace {
		t.Helper()
		s := newShell(t, l, options...)
		pid, err := strconv.Atoi(strings.TrimSpace(s.must("echo $$")))
		if err != nil {
			t.Fatal(err)
		}
		return l.NamespaceOf(pid, "guest")
	}
}
