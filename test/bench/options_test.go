package main

import (
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseOptions(t *testing.T) {
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		hold func(options) bool // of the result
	}{
		{"none", nil, func(o options) bool { return o.pace == usualPace() && o.format == "" && o.wants("pasta") }},
		{"quick", []string{"-quick"}, func(o options) bool { return o.pace == quickPace() }},
		{"rounds", []string{"-quick", "-rounds", "5"}, func(o options) bool { return o.pace.rounds == 5 }},
		{"json", []string{"-format", "json"}, func(o options) bool { return o.format == formatJSON }},
		{"markdown", []string{"-format", "markdown"}, func(o options) bool { return o.format == formatMarkdown }},
		{"helpers", []string{"-helpers", "pasta,kernel"}, func(o options) bool { return o.wants("pasta") && !o.wants("taproot") }},
		{"two builds", []string{"-old", "bin/x"}, func(o options) bool {
			return o.wants("old") && o.wants("new") && !o.wants("pasta") && o.old == filepath.Join(here, "bin/x")
		}},
		{"two builds and a peer", []string{"-old", "x", "-helpers", "old,new,pasta"}, func(o options) bool { return o.wants("pasta") }},
		{"taproot", []string{"-taproot", "bin/x"}, func(o options) bool { return o.taproot == filepath.Join(here, "bin/x") }},
		{"rows", []string{"-rows", "tcp-1500,start"}, func(o options) bool {
			return o.rows.has("tcp-1500-up-1") && o.rows.has("x", "start") && !o.rows.has("tcp-65520-up-1")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := parseOptions(tt.args, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.hold(o) {
				t.Errorf("got %+v", o)
			}
		})
	}
}

func TestParseOptionsErrors(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string // in the message
	}{
		{"unknown option", []string{"-slow"}, "slow"},
		{"unknown format", []string{"-format", "xml"}, "xml"},
		{"unknown row", []string{"-rows", "tcp-9000"}, "tcp-9000"},
		{"empty row", []string{"-rows", "tcp,"}, `rows ""`},
		{"argument", []string{"-quick", "all"}, "all"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var messages strings.Builder
			if _, err := parseOptions(tt.args, &messages); err == nil {
				t.Error("got no error, want one")
			}
			if !strings.Contains(messages.String(), tt.want) {
				t.Errorf("got %q, want %q in it", messages.String(), tt.want)
			}
		})
	}
}

// TestRowsAreMeasured compares the table's rows with what the sessions
// measure: a key that is in one only would be lost without a word.
func TestRowsAreMeasured(t *testing.T) {
	var keys []string
	for _, row := range allRows() {
		if slices.Contains(keys, row.Key) {
			t.Errorf("row %s: twice", row.Key)
		}
		keys = append(keys, row.Key)
	}
	for _, s := range sessions() {
		for _, m := range s.measurements {
			for _, key := range m.keys {
				if !slices.Contains(keys, key) {
					t.Errorf("row %s: measured, not in the table", key)
				}
			}
		}
	}
	for _, key := range slices.Concat(offRows(), loopbackRows(), outboundKeys()) {
		if !slices.Contains(keys, key) {
			t.Errorf("row %s: a contestant's, not in the table", key)
		}
	}
	for _, b := range bars() {
		if !slices.Contains(keys, b.key) {
			t.Errorf("row %s: a promise, not in the table", b.key)
		}
	}
}

func TestCommandLines(t *testing.T) {
	command := []string{"load", "a b"}
	two := Ports{First: 20001, Count: 2}
	tests := []struct {
		name   string
		helper Helper
		ports  Ports
		want   string // words joined by a bar; empty for helpers beside the guest
	}{
		{"taproot", Helper{Kind: Taproot, Path: "/t"}, Ports{}, "/t|run|--mtu=1500|--|load|a b"},
		{"taproot with options", Helper{Kind: Taproot, Path: "/t", Args: []string{"--offload=off"}}, Ports{},
			"/t|run|--mtu=1500|--offload=off|--|load|a b"},
		{"taproot with ports", Helper{Kind: Taproot, Path: "/t"}, two,
			"/t|run|--mtu=1500|--publish=0.0.0.0:20001-20002:20001-20002/tcp|--publish=0.0.0.0:20001-20002:20001-20002/udp|--|load|a b"},
		{"pasta", Helper{Kind: Pasta, Path: "/p"}, Ports{},
			"/p|--config-net|-f|-q|--mtu|1500|--dns-forward|10.0.2.3|-T|none|-U|none|-t|none|-u|none|--|load|a b"},
		{"pasta with ports", Helper{Kind: Pasta, Path: "/p"}, two,
			"/p|--config-net|-f|-q|--mtu|1500|--dns-forward|10.0.2.3|-T|none|-U|none|-t|20001-20002|-u|20001-20002|--|load|a b"},
		{"rootlesskit", Helper{Kind: Rootlesskit, Path: "/r"}, two,
			"/r|--net=slirp4netns|--port-driver=builtin|--mtu=1500|--disable-host-loopback|--copy-up=/etc|--state-dir=/d/rootlesskit|" +
				"-p|0.0.0.0:20001:20001/tcp|-p|0.0.0.0:20001:20001/udp|-p|0.0.0.0:20002:20002/tcp|-p|0.0.0.0:20002:20002/udp|--|load|a b"},
		{"slirp4netns", Helper{Kind: Slirp4netns, Path: "/s"}, Ports{}, ""},
		{"kernel", Helper{Kind: Veth}, Ports{}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line, wraps := LaunchArgs{Helper: tt.helper, MTU: 1500, Ports: tt.ports, Dir: "/d", Command: command}.wrapped()
			if got := strings.Join(line, "|"); got != tt.want || wraps != (tt.want != "") {
				t.Errorf("got %q %v, want %q", got, wraps, tt.want)
			}
		})
	}
	for ports, want := range map[Ports]string{{}: "/s -c --mtu=65520 12 tap0", two: "/s -c --mtu=65520 --api-socket /d/ports 12 tap0"} {
		args := LaunchArgs{Helper: Helper{Kind: Slirp4netns, Path: "/s"}, MTU: 65520, Ports: ports, Dir: "/d"}
		if got := strings.Join(args.attached(12), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestServersOn has every server at an address, at its own port.
func TestServersOn(t *testing.T) {
	running := new(service)
	defer running.Close()
	var at Servers
	if err := newAgent().serve(t.Context(), ServeArgs{Address: "127.0.0.1"}, running, &at); err != nil {
		t.Fatal(err)
	}
	if got := len(at.all()); got != serverCount || len(running.open) != serverCount {
		t.Errorf("servers: got %d, %d open, want %d", got, len(running.open), serverCount)
	}
	moved := at.on("192.0.2.1")
	for i, place := range moved.all() {
		_, want, _ := strings.Cut(*at.all()[i], ":")
		if host, port, _ := strings.Cut(*place, ":"); host != "192.0.2.1" || port != want || want == "" {
			t.Errorf("server %d: got %s, want port %s of 192.0.2.1", i, *place, want)
		}
	}
}

func TestTakesPart(t *testing.T) {
	everywhere, somewhere := Contestant{}, Contestant{only: []string{"a", "b"}}
	tests := []struct {
		contestant Contestant
		keys       []string
		want       bool
	}{
		{everywhere, []string{"x"}, true},
		{somewhere, []string{"x", "b"}, true},
		{somewhere, []string{"x"}, false},
		{somewhere, []string{"a-p99"}, false}, // keys, not prefixes
	}
	for _, tt := range tests {
		if got := tt.contestant.takesPart(tt.keys); got != tt.want {
			t.Errorf("%v in %v: got %v, want %v", tt.contestant.only, tt.keys, got, tt.want)
		}
	}
}
