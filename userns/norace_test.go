//go:build !race

package userns

const execJoins = joins
