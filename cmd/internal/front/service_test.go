package front

import (
	"testing"

	"taproot/internal/engine"
)

// TestEventText wants an engine's death to be told even if there is another one by
// the time that it is heard of.
func TestEventText(t *testing.T) {
	died := engine.Event{Kind: engine.EventEngineDied, Why: "signal: killed"}
	for _, tt := range []struct {
		name  string
		event engine.Event
		state engine.EngineState
		want  string
	}{
		{"died", died, engine.EngineStarting, "the engine is being started (signal: killed)"},
		{"died, and there is another", died, engine.EngineRunning, "the engine is being started (signal: killed)"},
		{"died, and was given up", died, engine.EngineGone, "no network any more (too often)"},
		{"started again", engine.Event{Kind: engine.EventEngineStarted}, engine.EngineRunning, "the network of process 7 works, engine started again 1 times"},
		{"too many events", engine.Event{}, engine.EngineRunning, "the network of process 7 works, engine started again 1 times"},
	} {
		st := engine.Status{Engine: tt.state, Process: 7, Restarts: 1, Why: "too often"}
		if got := eventText(tt.event, &st); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
