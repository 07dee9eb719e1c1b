package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"taproot/internal/probe"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := taproot(l, "check")
	out := c.MustRun()
	for _, word := range []string{"user", "tun", "offload", "subordinate", "ping", "port", "ipv6", "resolver", "landlock", "seccomp", "tproxy", "sandbox"} {
		if !strings.Contains(strings.ToLower(out), word) {
			t.Errorf("check says nothing about %s:\n%s", word, out)
		}
	}
}

func TestCheckJSON(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	out := taproot(l, "check", "--json").MustRun()
	var check struct {
		Works   bool
		Results []probe.Result
	}
	if err := json.Unmarshal([]byte(out), &check); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if !check.Works {
		t.Errorf("works: got false, want true: %s", out)
	}
	if len(check.Results) < 8 {
		t.Errorf("got %d results, want one for each thing that run may need", len(check.Results))
	}
	for _, r := range check.Results {
		if r.Name == "" || r.Detail == "" || r.Required && r.Status == probe.Missing {
			t.Errorf("got %+v, want a name, a detail, and nothing missing that is required", r)
		}
	}
}

// TestVerbose: the debug log tells which way the device was opened.
func TestVerbose(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := guest(l, []string{"-v"}, "true")
	c.MustRun()
	wantContains(t, "log", c.Err(), "offload")
	c = guest(l, nil, "true")
	c.MustRun()
	wantText(t, "log without -v", c.Err(), "")
}
