package main

import (
	"slices"
	"time"
)

// median returns the middle of values, or the mean of the two in the middle.
// It returns 0 for an empty slice and leaves values as they are.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// percentile returns the value below which p percent of the sorted durations
// lie, by nearest rank. It returns 0 for an empty slice.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(p/100*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// microseconds converts d for a table.
func microseconds(d time.Duration) float64 {
	return float64(d) / float64(time.Microsecond)
}
