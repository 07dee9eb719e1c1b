//go:build race

package userns

// execJoins is fewer than without the race detector, with which each stage takes
// five times as long to start.
const execJoins = joins / 4
