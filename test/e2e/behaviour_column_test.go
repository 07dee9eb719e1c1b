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
	kernel   bool     // without taproot; else
	options  []string // of taproot run
	shortcut bool     // TCP goes from socket to socket
}

// columns are the three ways that have to agree; the first is how things are.
func columns() []column {
	return []column{
		{name: "kernel", kernel: true},
		{name: "stack", options: []string{"--shortcut=off"}},
		{name: "shortcut", options: []string{"--shortcut=on"}, shortcut: true},
	}
}

// guest makes a guest and returns its network.
func (c column) guest(t *testing.T, l *lab.Lab) *lab.Namespace {
	t.Helper()
	if c.kernel {
		return l.Behind("guest")
	}
	return networkOf(t, l, newShell(t, l, c.options...))
}

// networkOf is the network of a guest.
func networkOf(t *testing.T, l *lab.Lab, s *shell) *lab.Namespace {
	t.Helper()
	return l.NamespaceOf(s.pid(), "guest")
}

// pid is the process id of the shell, as the host has it too.
func (s *shell) pid() int {
	s.t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(s.must("echo $$")))
	if err != nil {
		s.t.Fatal(err)
	}
	return pid
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
