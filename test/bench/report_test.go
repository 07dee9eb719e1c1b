package main

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample returns results of one contestant of each standing and two peers.
func sample() *Results {
	r := &Results{
		Rounds: 3,
		Contestants: []Contestant{
			{Name: "taproot", Version: "1", Standing: Ours}, {Name: "slirp4netns", Version: "1.2", Standing: Peer}, {Name: "pasta", Version: "2023", Standing: Peer}, {Name: "kernel", Version: "6", Standing: Limit},
		},
	}
	for key, values := range map[string][4]float64{
		"tcp-1500-up-1":  {18, 0.5, 2, 26},
		"tcp-65520-up-1": {12, 10, 20, 25},
		"pingpong-p50":   {50, 48, 105, 30},
		"connect-1":      {4000, 5000, 2500, 9000},
	} {
		for i, value := range values {
			// The median of these three is value.
			name := r.Contestants[i].Name
			r.record(name, key, value*3)
			r.record(name, key, value)
			r.record(name, key, value/3)
		}
	}
	r.record("pasta", "connect-32", 6000)
	r.record("taproot-off", "tcp-1500-up-1", 6)
	r.finish(allRows())
	return r
}

func TestVerdicts(t *testing.T) {
	tests := []struct {
		key, bar, peer, want string
	}{
		{"tcp-1500-up-1", ">= 8.0x best peer", "pasta", "PASS"},
		{"tcp-1500-up-1", ">= 0.6x kernel", "kernel", "PASS"},
		{"tcp-65520-up-1", ">= 1.2x best peer", "pasta", "SHORT by 50 %"},
		{"pingpong-p50", "<= 1.0x best peer", "slirp4netns", "SHORT by 4 %"},
		{"connect-1", ">= 1.0x best peer", "slirp4netns", "SHORT by 20 %"},
		{"tcp-1500-up-1", ">= 4.0x best peer", "pasta", "SHORT by 25 %"},
	}
	verdicts := sample().verdicts()
	if len(verdicts) != len(tests) {
		t.Fatalf("got %d verdicts, want %d", len(verdicts), len(tests))
	}
	for i, tt := range tests {
		t.Run(tt.key, func(t *testing.T) {
			v := verdicts[i]
			got := [4]string{v.Row.Key, v.Bar, v.Peer, v.String()}
			if want := [4]string{tt.key, tt.bar, tt.peer, tt.want}; got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestLatencyFallsShort(t *testing.T) {
	r := &Results{Contestants: []Contestant{{Name: "taproot", Version: "", Standing: Ours}, {Name: "pasta", Version: "", Standing: Peer}}}
	r.record("taproot", "pingpong-p50", 62.5)
	r.record("pasta", "pingpong-p50", 50)
	r.finish(allRows())
	verdicts := r.verdicts()
	if len(verdicts) != 1 {
		t.Fatalf("got %d verdicts, want 1", len(verdicts))
	}
	if got, want := verdicts[0].String(), "SHORT by 25 %"; got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBest(t *testing.T) {
	r := sample()
	tests := []struct {
		key      string
		standing Standing
		value    float64
		name     string
	}{
		{"tcp-1500-up-1", Peer, 2, "pasta"},
		{"pingpong-p50", Peer, 48, "slirp4netns"},
		{"pingpong-p50", Limit, 30, "kernel"},
		{"connect-32", Limit, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.key, func(t *testing.T) {
			row, _ := r.row(tt.key)
			value, name, ok := r.best(tt.standing, row)
			if value != tt.value || name != tt.name || ok != (tt.name != "") {
				t.Errorf("got %v %q %v, want %v %q", value, name, ok, tt.value, tt.name)
			}
		})
	}
}

func TestTables(t *testing.T) {
	tests := []struct {
		name  string
		as    format
		lines []string // in this order
	}{
		{"text", formatText, []string{
			"pasta (peer): 2023",
			"TCP, MTU 1500 up, 1 flow   Gbit/s     18.0         0.50   2.00    26.0",
			"connect/close, 32 clients     1/s        -            -   6000       -",
			"TCP, MTU 1500 up, 1 flow       9.00x        pasta  0.69x       more",
			"connect/close, 1 client        taproot  >= 1.0x best peer     0.80x  slirp4netns  SHORT by 20 %",
		}},
		{"markdown", formatMarkdown, []string{
			"| median of 3 rounds | unit | taproot | slirp4netns | pasta | kernel |",
			"|---|---:|---:|---:|---:|---:|",
			"| TCP ping-pong, p50 | µs | 50.0 | 48.0 | 105 | 30.0 |",
			"| TCP ping-pong, p50 | 1.04x | slirp4netns | 1.67x | less |",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := sample().write(&b, tt.as); err != nil {
				t.Fatal(err)
			}
			rest := b.String()
			for _, line := range tt.lines {
				_, after, found := strings.Cut(rest, line+"\n")
				if !found {
					t.Fatalf("got\n%s\nwant in it, in this order: %q", b.String(), line)
				}
				rest = after
			}
		})
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	if err := sample().write(&b, formatJSON); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rounds int
		Values map[string]map[string][]float64
		Bars   []Verdict
	}
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	if n := len(got.Values["pasta"]["pingpong-p50"]); n != got.Rounds {
		t.Errorf("got %d values, want %d", n, got.Rounds)
	}
	if n := len(got.Bars); n != 6 {
		t.Errorf("got %d bars, want 6", n)
	}
}

func TestRecordNumbersOnly(t *testing.T) {
	var r Results
	for _, value := range []float64{math.NaN(), math.Inf(1), 1} {
		r.record("taproot", "start", value)
	}
	if got, want := len(r.Values["taproot"]["start"]), 1; got != want {
		t.Errorf("got %d values, want %d", got, want)
	}
}

func TestNumber(t *testing.T) {
	tests := []struct {
		value float64
		want  string
	}{
		{0, "0"}, {0.123, "0.12"}, {9.99, "9.99"}, {9.999, "10.0"}, {99.94, "99.9"}, {99.96, "100"}, {12345.6, "12346"},
	}
	for _, tt := range tests {
		if got := number(tt.value); got != tt.want {
			t.Errorf("%v: got %v, want %v", tt.value, got, tt.want)
		}
	}
}

func TestNotesAreSaidOnce(t *testing.T) {
	var r Results
	r.note("%s is missing", "pasta")
	r.note("%s is missing", "pasta")
	if got, want := len(r.Notes), 1; got != want {
		t.Errorf("got %d notes, want %d", got, want)
	}
}

func TestBenchstat(t *testing.T) {
	var b strings.Builder
	if err := sample().write(&b, formatBenchstat); err != nil {
		t.Fatal(err)
	}
	rest := b.String()
	for _, line := range []string{
		"Unit Gbit/s better=higher",
		"Unit µs better=lower",
		"build: taproot",
		"BenchmarkRow/tcp-1500-up-1-0 1 18 Gbit/s",
		"build: pasta",
		"BenchmarkRow/pingpong-p50-0 1 105 µs",
	} {
		_, after, found := strings.Cut(rest, line+"\n")
		if !found {
			t.Fatalf("got\n%s\nwant in it, in this order: %q", b.String(), line)
		}
		rest = after
	}
}

// TestUnits wants all rows of a unit to have one sense, because benchstat knows
// it by unit.
func TestUnits(t *testing.T) {
	lower := make(map[string]bool)
	for _, row := range allRows() {
		unit := row.statUnit()
		if sense, known := lower[unit]; known && sense != row.Lower {
			t.Errorf("%s: %s is better when less, and when more", row.Key, unit)
		}
		lower[unit] = row.Lower
	}
}

func TestReadResults(t *testing.T) {
	var text, want, got strings.Builder
	if err := errors.Join(sample().write(&text, formatJSON), sample().write(&want, formatText)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "run.json")
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := readResults(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.write(&got, formatText); err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want.String())
	}
}
