package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := taproot(l, "check")
	out := c.MustRun()
	for _, word := range []string{"user", "tun", "offload", "subordinate", "ping", "port", "ipv6", "resolver", "landlock", "seccomp", "nf_tables"} {
		if !strings.Contains(strings.ToLower(out), word) {
			t.Errorf("check says nothing about %s:\n%s", word, out)
		}
	}
}

func TestCheckJSON(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	out := taproot(l, "check", "--json").MustRun()
	var results []struct {
		Name, Status, Detail, Remedy string
	}
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(results) < 8 {
		t.Errorf("got %d results, want one for each thing that run may need", len(results))
	}
	for _, r := range results {
		if r.Name == "" || (r.Status != "ok" && r.Remedy == "") {
			t.Errorf("got %+v, want a name, and a remedy unless it is ok", r)
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
