package engine

import (
	"strings"
	"testing"
	"time"

	"taproot/test/settle"
)

// TestPulse wants silence to count only while we were awake.
func TestPulse(t *testing.T) {
	const beat = time.Second
	type note struct {
		after time.Duration
		heard uint64
	}
	tests := []struct {
		name  string
		notes []note
		want  int
	}{
		{"it answers", []note{{beat, 1}, {beat, 2}, {beat, 3}}, 0},
		{"it never answers", []note{{beat, 0}, {beat, 0}, {beat, 0}}, 3},
		{"it answers late", []note{{beat, 0}, {beat, 0}, {beat, 1}}, 0},
		{"it falls silent", []note{{beat, 7}, {beat, 7}, {beat, 7}}, 2},
		{"all was stopped for a minute", []note{{beat, 0}, {beat, 0}, {time.Minute, 0}}, 0},
		{"and is silent afterwards", []note{{time.Minute, 0}, {beat, 0}, {beat, 0}}, 2},
		{"a slow machine", []note{{beat + beat/3, 0}, {2 * beat, 0}, {beat + beat/3, 0}}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now, got := time.Now(), 0
			p := pulse{last: now}
			for _, n := range tt.notes {
				now = now.Add(n.after)
				got = p.note(now, n.heard, beat)
			}
			if got != tt.want {
				t.Errorf("got %d beats of silence, want %d", got, tt.want)
			}
		})
	}
}

// TestSilentEngine has an engine that does not answer, before and after it is
// ready. Another one takes its place.
func TestSilentEngine(t *testing.T) {
	for script, beat := range map[string]time.Duration{
		"deaf stay":            time.Second,
		"ready-die stuck stay": 300 * time.Millisecond, // 15 times
	} {
		t.Run(script, func(t *testing.T) {
			k := newBeating(t, script, beat)
			settle.Until(t, "another engine runs", func() bool { // which may be slow too
				return countLives(t) >= len(strings.Fields(script)) && k.status().Engine == EngineRunning
			})
			if got := k.status().Why; !strings.Contains(got, "no sign of life for ") {
				t.Errorf("got %q, want why", got)
			}
		})
	}
}
