package engine

import "testing"

func TestNearlyFull(t *testing.T) {
	for _, tt := range []struct {
		now, limit int
		want       bool
	}{
		{now: 0, limit: 0},
		{now: 1000, limit: 0},
		{now: 0, limit: 10},
		{now: 9, limit: 10},
		{now: 10, limit: 10, want: true},
		{now: 0, limit: 99},
		{now: 94, limit: 99},
		{now: 95, limit: 99, want: true},
		{now: 94_999, limit: 100_000},
		{now: 95_000, limit: 100_000, want: true},
	} {
		if got := nearlyFull(tt.now, tt.limit); got != tt.want {
			t.Errorf("%d of %d: got %v, want %v", tt.now, tt.limit, got, tt.want)
		}
	}
}

// What the environment says counts where the command line says nothing, and what
// makes no sense is told.
func TestShortcutVariable(t *testing.T) {
	for _, tt := range []struct {
		given Shortcut
		value string
		want  Shortcut
		warns int
	}{
		{given: ShortcutAuto, value: "", want: ShortcutAuto},
		{given: ShortcutAuto, value: "off", want: ShortcutOff},
		{given: ShortcutAuto, value: "on", want: ShortcutOn},
		{given: ShortcutOn, value: "off", want: ShortcutOn},
		{given: ShortcutOff, value: "no", want: ShortcutOff},
		{given: ShortcutAuto, value: "no", want: ShortcutAuto, warns: 1},
	} {
		warns := 0
		cfg := Config{Shortcut: tt.given, Warn: func(string, string) { warns++ }}
		cfg.readShortcut(tt.value)
		if cfg.Shortcut != tt.want || warns != tt.warns {
			t.Errorf("%v and %q: got %v and %d warnings, want %v and %d", tt.given, tt.value, cfg.Shortcut, warns, tt.want, tt.warns)
		}
	}
}
