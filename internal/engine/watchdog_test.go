package engine

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// TestSigns wants only answers to count, and no more than there were questions.
func TestSigns(t *testing.T) {
	var s signs
	delivered, full := func() error { return nil }, func() error { return unix.EAGAIN }
	for i, step := range []struct {
		put     func() error // what becomes of the question, nil if there is none
		answers int
		want    uint64
	}{{nil, 1, 0}, {delivered, 0, 0}, {delivered, 1, 1}, {nil, 3, 2}, {full, 1, 2}, {delivered, 1, 3}} {
		if step.put != nil {
			_ = s.ask(step.put)
		}
		for range step.answers {
			s.answer()
		}
		if got := s.heard(); got != step.want {
			t.Errorf("step %d: got %d signs of life, want %d", i, got, step.want)
		}
	}
}

// TestPulseStart wants silence to be counted anew from when all that the engine says
// is read.
func TestPulseStart(t *testing.T) {
	const beat = time.Second
	now := time.Now()
	p := pulse{last: now}
	for i, tt := range []struct {
		heeded       bool
		most, missed int
	}{{false, startMost, 1}, {false, startMost, 2}, {false, startMost, 3}, {true, silentMost, 0}, {true, silentMost, 1}, {true, silentMost, 2}} {
		now = now.Add(beat)
		most := p.most(tt.heeded)
		if missed := p.note(now, 0, beat); most != tt.most || missed != tt.missed {
			t.Errorf("beat %d: got %d of %d, want %d of %d", i, missed, most, tt.missed, tt.most)
		}
	}
}

// TestFullWire has an engine that does not read what it is told, while it says that
// it lives: who waits for room for the next message waits until it is killed.
func TestFullWire(t *testing.T) {
	k := newBeating(t, "parrot stay", time.Second)
	engine := k.current()
	for engine.wire.try(message{Host: &hostState{}}) == nil {
	}
	if err := engine.wire.send(message{Host: &hostState{}}); err == nil {
		t.Error("got no error of a message to an engine that does not read")
	}
	settle.Until(t, "another engine runs", func() bool {
		return countLives(t) >= 2 && k.status().Engine == EngineRunning
	})
}

// TestSilentEngine has an engine that does not answer, before and after it is
// ready. Another one takes its place.
func TestSilentEngine(t *testing.T) {
	for script, beat := range map[string]time.Duration{
		"deaf stay":            time.Second,
		"babbling stay":        time.Second,
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

// TestSignsAll wants what was asked before not to count as an answer to what is asked now.
func TestSignsAll(t *testing.T) {
	var s signs
	ask := func() { _ = s.ask(func() error { return nil }) }
	isTold := func(told <-chan struct{}) bool {
		select {
		case <-told:
			return true
		default:
			return false
		}
	}
	if !isTold(s.all(0)) {
		t.Error("nothing was asked: not told")
	}
	ask()
	ask()
	told := s.all(1)
	s.answer()
	s.answer()
	if isTold(told) {
		t.Error("told before the last question")
	}
	ask()
	s.answer()
	if !isTold(told) {
		t.Error("all is answered: not told")
	}
	if !isTold(s.all(0)) {
		t.Error("all was answered: not told")
	}
}
