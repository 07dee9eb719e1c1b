//go:build !race

package link

// raceEnabled tells whether the race detector is in this binary.
const raceEnabled = false
