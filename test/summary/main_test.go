package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	tests := []struct {
		name   string
		events []string
		want   counts
		text   []string // what the report must say
		not    []string
	}{
		{
			name: "pass and skip",
			events: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}`,
				`{"Action":"pass","Package":"p","Test":"TestA"}`,
				`{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: no IPv6\n"}`,
				`{"Action":"skip","Package":"p","Test":"TestB"}`,
				`{"Action":"pass","Package":"p","Elapsed":1.5}`,
			},
			want: counts{passed: 1, skipped: 1},
			text: []string{"SKIP p TestB\n", "no IPv6", "1 passed", "1 skipped", "1.5s"},
			not:  []string{"chatter"},
		},
		{
			name: "failed test shows its output once",
			events: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: got 1, want 2\n"}`,
				`{"Action":"fail","Package":"p","Test":"TestA"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want: counts{failed: 1},
			text: []string{"FAIL p TestA\n", "got 1, want 2"},
		},
		{
			name: "crash",
			events: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"panic: oh\n"}`,
				`{"Action":"output","Package":"p","Output":"FAIL p 0.1s\n"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want: counts{failed: 1},
			text: []string{"panic: oh"},
		},
		{
			name: "does not build",
			events: []string{
				`{"Action":"build-output","ImportPath":"p","Output":"p.go:1: undefined: x\n"}`,
				`{"Action":"build-fail","ImportPath":"p"}`,
				`{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			},
			want: counts{failed: 1},
			text: []string{"undefined: x"},
		},
		{
			name:   "not JSON",
			events: []string{"go: no such package"},
			text:   []string{"go: no such package"},
		},
		{name: "no test files", events: []string{`{"Action":"skip","Package":"p"}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var text bytes.Buffer
			got, err := summarize(strings.NewReader(strings.Join(tt.events, "\n")), &text)
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
			for _, s := range tt.text {
				if strings.Count(text.String(), s) != 1 {
					t.Errorf("got %q, want %q once", &text, s)
				}
			}
			for _, s := range tt.not {
				if strings.Contains(text.String(), s) {
					t.Errorf("got %q, want it without %q", &text, s)
				}
			}
		})
	}
}
