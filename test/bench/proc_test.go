package main

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestCPUTime(t *testing.T) {
	tests := []struct {
		name, stat string
		want       time.Duration
	}{
		{"plain", "12 (pasta) S 1 12 12 0 -1 4194304 1 2 3 4 150 50 7 8 20 0 1", 2 * time.Second},
		{"name with brackets", "12 (a) b) S 1 12 12 0 -1 4194304 1 2 3 4 1 0 7 8 20 0 1", clockTick},
		{"short", "12 (a) S 1", 0},
		{"not a number", "12 (a) S 1 12 12 0 -1 4194304 1 2 3 4 x 0 7", 0},
		{"empty", "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := cpuTime(tt.stat); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestKilobytes(t *testing.T) {
	const text = "55d0-7ffc ---p 00000000 00:00 0   [rollup]\nRss:       4096 kB\nPss:       1024 kB\nPss_Anon:  7 kB\n"
	tests := []struct {
		name, text string
		want       int64
	}{
		{"Pss:", text, 1 << 20},
		{"Rss:", text, 4 << 20},
		{"Swap:", text, 0},
		{"Pss:", "Pss:", 0},
		{"Pss:", "Pss: many kB", 0},
	}
	for _, tt := range tests {
		if got := kilobytes(tt.text, tt.name); got != tt.want {
			t.Errorf("%s of %q: got %v, want %v", tt.name, tt.text, got, tt.want)
		}
	}
}

// TestHelperUsage starts two children, of which one counts.
func TestHelperUsage(t *testing.T) {
	for _, name := range []string{"helper", "generator"} {
		cmd := exec.Command("cat")
		cmd.Args = []string{name, "-"}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	got := helperUsage(os.Getpid(), []string{"generator"})
	if got.count != 1 || got.rss == 0 || got.resident() == 0 {
		t.Errorf("got %+v, want one process with memory", got)
	}
}
