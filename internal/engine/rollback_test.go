package engine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"taproot/test/settle"
)

// TestRollBack wants engines made of the program before again when one of another
// program does not last, and whoever asked for it to hear of that.
func TestRollBack(t *testing.T) {
	tests := []struct {
		name, script, why string
		beat              time.Duration
	}{
		{"it dies", "stay take-die stay", "exit status 4", 0},
		{"it gives no sign of life", "stay take-silent stay", "no sign of life for 3s", time.Second},
		{"it is dead when its turn comes", "stay ready-die stay", "exit status 4", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := newKeeping(t, tt.script)
			k.beat = tt.beat // of the others
			events, stop := k.events.listen()
			defer stop()
			path := program(t, 0o755)
			err := k.restartNow(t, path)
			if err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %v, want %q in it", err, tt.why)
			}
			settle.Until(t, "another engine runs", func() bool { return countLives(t) == 3 && k.status().Engine == EngineRunning })
			if got := k.status(); got.Binary != "" || got.RolledBack != path+": "+tt.why {
				t.Errorf("got %+v, want the program before, and %q", got, path+": "+tt.why)
			}
			var kinds []string
			for range 4 {
				kinds = append(kinds, string((<-events).Kind))
			}
			if !slices.Contains(kinds, string(EventEngineRolledBack)) {
				t.Errorf("got events %q, want one of the roll-back", kinds)
			}
			if err := k.restartNow(t, path); err != nil { // which stays this time
				t.Error(err)
			}
			if got := k.status(); got.Binary != path || got.RolledBack != "" {
				t.Errorf("got %+v, want %s", got, path)
			}
		})
	}
}

// TestNoRollBack wants a program to stay that has lasted, and the same one to be
// nothing to go back from.
func TestNoRollBack(t *testing.T) {
	for name, other := range map[string]bool{"another program": true, "the same": false} {
		t.Run(name, func(t *testing.T) {
			k := newKeeping(t, "stay")
			path := ""
			if other {
				path = program(t, 0o755)
			}
			if err := k.restartNow(t, path); err != nil {
				t.Fatal(err)
			}
			k.endTrial()
			if err := k.current().process.Kill(); err != nil {
				t.Fatal(err)
			}
			settle.Until(t, "another engine runs", func() bool { return countLives(t) == 3 && k.status().Engine == EngineRunning })
			if got := k.status(); got.Binary != path || got.RolledBack != "" {
				t.Errorf("got %+v, want %q", got, path)
			}
		})
	}
}

// TestProve wants who asked for an engine of the same program to hear that it died.
func TestProve(t *testing.T) {
	k := newKeeping(t, "stay take-die stay")
	err := k.restartNow(t, "")
	if want := "the other engine has taken over and ended: engine: exit status 4"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	settle.Until(t, "another engine runs", func() bool { return countLives(t) == 3 && k.status().Engine == EngineRunning })
}

// TestForgiven wants the death of an engine that has inherited connections not to be held
// against its program, and the next one to be.
func TestForgiven(t *testing.T) {
	k := newKeeping(t, "stay")
	path := program(t, 0o755)
	if err := k.restartNow(t, path); err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	k.trial.heir = true
	k.mu.Unlock()
	for i, want := range []string{path, ""} {
		if err := k.current().process.Kill(); err != nil {
			t.Fatal(err)
		}
		settle.Until(t, "another engine runs", func() bool { return countLives(t) == 3+i && k.status().Engine == EngineRunning })
		if got := k.status(); got.Binary != want || (got.RolledBack == "") != (want == path) {
			t.Errorf("death %d: got %+v, want %q", i+1, got, want)
		}
	}
}
