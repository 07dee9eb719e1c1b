package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a run of two contestants, one of which lacks a row.
const sample = `{
	"Machine": {"When": "2026-11-21T15:00:00Z", "Processor": "some", "Kernel": "6.18", "CPUs": 2},
	"Contestants": [{"Name": "taproot"}, {"Name": "pasta"}],
	"Values": {
		"taproot": {"tcp-1500-up-1": [1, 9, 8], "nested-down-8": [3, 4]},
		"pasta": {"tcp-1500-up-1": [2]}
	}
}`

func TestRun(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "run.json"), filepath.Join(dir, "run.svg")
	if err := os.WriteFile(from, []byte(sample), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{from, to}); err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", "taproot", "pasta", "nested", "Linux 6.18, 2026-11-21"} {
		if !strings.Contains(string(picture), want) {
			t.Errorf("the picture has no %q", want)
		}
	}
	if strings.Contains(string(picture), "65520") {
		t.Error("the picture has a row without values")
	}
}

func TestRunErrors(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"empty": "{}", "broken": "{", "run.json": sample}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		args []string
	}{
		{"no arguments", nil},
		{"no such file", []string{filepath.Join(dir, "none"), "a.svg"}},
		{"no values", []string{filepath.Join(dir, "empty"), "a.svg"}},
		{"no JSON", []string{filepath.Join(dir, "broken"), "a.svg"}},
		{"unknown form", []string{filepath.Join(dir, "run.json"), filepath.Join(dir, "a.docx")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := run(tt.args); err == nil {
				t.Error("got no error, want one")
			}
		})
	}
}

func TestValue(t *testing.T) {
	r := results{Values: map[string]map[string][]float64{"a": {"odd": {9, 1, 4}, "even": {4, 1, 2, 9}}}}
	for row, want := range map[string]float64{"odd": 4, "even": 3, "none": 0} {
		if got, ok := r.value("a", row); got != want || ok != (row != "none") {
			t.Errorf("%s: got %v %v, want %v", row, got, ok, want)
		}
	}
}
