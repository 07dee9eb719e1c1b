// Summary makes a short report of `go test -json`, which it reads on standard
// input:
//
//	go test -json ./... | summary -o counts
//
// It prints a line for each package, the output of each test that failed, and
// the reason of each skip. With -o it writes three numbers to a file: tests
// passed, failed and skipped. Subtests count as tests; a package that fails
// outside its tests (it does not build, it crashed) counts as one failure.
//
// The exit status is 1 if anything failed or nothing was run.
package main
