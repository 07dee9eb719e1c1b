package front

import (
	"bytes"
	"testing"

	"taproot/portfwd"
)

// TestTellPicked wants to be told what could not be known before, and no more.
func TestTellPicked(t *testing.T) {
	var stderr bytes.Buffer
	p := &program{err: newOutput(&stderr)}
	rules := []portfwd.Rule{
		{Local: true, Target: port(80), Ports: 1, Proxy: 2},
		{Local: true, Listen: port(8080), Target: port(80), Ports: 1},
		{ListenUnix: "/run/a.sock", Target: port(80), Ports: 1},
		{Direction: portfwd.Outbound, TargetUnix: "/run/b.sock", Ports: 1},
		{Local: true, Listen: port(81), Target: port(81), Ports: 1, Wait: true},
	}
	list := make([]portfwd.Entry, len(rules)+1) // one is automatic
	for i, r := range rules {
		list[i] = portfwd.Entry{ID: i + 1, Rule: r}
	}
	list[0].Rule.Listen, list[3].Rule.Listen = port(40000), port(40001)
	list[4].State, list[4].Err = portfwd.StateWaiting, "publish x: no such address"
	if err := p.tellPicked(rules, list); err != nil {
		t.Fatal(err)
	}
	const want = `taproot: warning: publish x: no such address
taproot: hint: it is published as soon as the host has the address
taproot: publish 40000:80
taproot: reach   unix:/run/b.sock:40001
`
	if got := stderr.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	stderr.Reset()
	if err := p.tellPicked(rules, nil); err != nil || stderr.Len() > 0 {
		t.Errorf("without rules: got %q, %v, want nothing", &stderr, err)
	}
}
