package engine

import (
	"testing"
	"time"
)

// The reader rests when most of what has come since it was asked last was in vain.
func TestRestraint(t *testing.T) {
	var r restraint
	for _, test := range []struct {
		name            string
		frames, refused uint64 // in all
		want            time.Duration
	}{
		{"nothing", 0, 0, 0},
		{"one that took long", 1, 0, 0},
		{"all well", 1000, 0, 0},
		{"few in vain", 2000, 499, 0},
		{"all in vain", 3000, 1499, resting},
		{"well again", 4000, 1500, 0},
		{"in vain, of others too", 4010, 2500, resting}, // refused what has come long before
	} {
		if got := r.rest(test.frames, test.refused); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}
