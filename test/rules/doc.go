// Package rules holds the rules of the repository that a program can check, as
// tests: who may import what, where foreign packages live, what is documented,
// how long a file may be. `make lint` runs them; one alone with
//
//	go test ./test/rules -run TestArrows
//
// A rule that stands in the way is changed here, with its reason, and not
// worked around.
package rules
