package main

import (
	"os/exec"
	"slices"
	"strings"
)

// offName is the contestant that shows the stack path alone: taproot with
// offOption. It takes part in few rows.
const (
	offName   = "taproot-off"
	offOption = "--shortcut=off"
)

// offRows are the keys of the rows that the stack path has promises in, with
// what is measured along with them, and of those of published TCP ports.
func offRows() []string {
	keys := []string{"pingpong-p50", "pingpong-p99"}
	for _, s := range streams() {
		if s.column() {
			keys = append(keys, s.rateKey(), s.costKey())
		}
	}
	for _, n := range connectClients() {
		keys = append(keys, inGuest.key("connect", n))
	}
	for _, s := range publishedStreams() {
		keys = append(keys, s.rateKey(), s.costKey())
	}
	for _, from := range publishedSides() {
		keys = slices.Concat(keys, keysOf(pingPongRows(from)), keysOf(connectRows(from)))
	}
	return keys
}

// hasOption reports whether a taproot has an option: one that is compared with
// may be older.
func hasOption(taproot, option string) bool {
	help, err := exec.Command(taproot, "run", "--help").Output()
	return err == nil && strings.Contains(string(help), option)
}
