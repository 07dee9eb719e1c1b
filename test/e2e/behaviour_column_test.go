package e2e

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"taproot/internal/probe"
	"taproot/test/lab"
)

// A column is one way to connect a guest to the host's network.
type column struct {
	name     string
	kernel   bool // without taproot
	shortcut bool // TCP goes from socket to socket
	guest    func(t *testing.T, l *lab.Lab) *lab.Namespace
}

// columns are the three ways that have to agree; the first is how things are.
func columns() []column {
	return []column{
		{"kernel", true, false, func(_ *testing.T, l *lab.Lab) *lab.Namespace { return l.Behind("guest") }},
		{"stack", false, false, inTaproot("--shortcut=off")},
		{"shortcut", false, true, inTaproot("--shortcut=on")},
	}
}

// inTaproot starts a guest with these options and returns its network.
func inTaproot(options ...string) func(t *testing.T, l *lab.Lab) *lab.Namespace {
	return func(t *testing.T, l *lab.Lab) *lab.Namespace {
		t.Helper()
		return networkOf(t, l, newShell(t, l, options...))
	}
}

// networkOf is the network of a guest.
func networkOf(t *testing.T, l *lab.Lab, s *shell) *lab.Namespace {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(s.must("echo $$")))
	if err != nil {
		t.Fatal(err)
	}
	return l.NamespaceOf(pid, "guest")
}

// tproxy tells what the kernel lacks for the shortcut, nil if nothing.
func tproxy(t *testing.T, l *lab.Lab) *probe.Unsupported {
	t.Helper()
	const name = "tproxy"
	var check struct{ Results []probe.Result }
	if err := json.Unmarshal([]byte(taproot(l, "check", "--json").MustRun()), &check); err != nil {
		t.Fatal(err)
	}
	for _, r := range check.Results {
		if r.Name == name && r.Status == probe.OK {
			return nil
		}
	}
	return &probe.Unsupported{Feature: name, Err: errors.New("taproot check says that it is missing")}
}

// needTProxy skips the test where the kernel has no shortcut to offer.
func needTProxy(t *testing.T, l *lab.Lab) {
	t.Helper()
	if u := tproxy(t, l); u != nil {
		lab.Lacks(t, u)
	}
}
