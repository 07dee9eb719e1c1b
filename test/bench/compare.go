package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Names of the contestants when two builds are compared.
const (
	oldName = "old"
	newName = "new"
)

// writeBenchstat writes every value in the format of Go benchmarks
// (golang.org/design/14313-benchmark-format), for benchstat -col build.
func (r *Results) writeBenchstat(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "goos: linux\ncpu: %s\nkernel: %s\n", r.Machine.Processor, r.Machine.Kernel)
	units := make(map[string]bool)
	for _, row := range r.Rows {
		unit := row.statUnit()
		if units[unit] {
			continue
		}
		units[unit] = true
		sense := "higher"
		if row.Lower {
			sense = "lower"
		}
		fmt.Fprintf(b, "Unit %s better=%s\n", unit, sense)
	}
	for _, c := range r.Contestants {
		fmt.Fprintf(b, "\nbuild: %s\nversion: %s\n", c.Name, c.Version)
		for _, row := range r.Rows {
			for _, value := range r.Values[c.Name][row.Key] {
				// The number at the end is that of processors.
				fmt.Fprintf(b, "BenchmarkRow/%s-%d 1 %v %s\n", row.Key, r.Machine.CPUs, value, row.statUnit())
			}
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintf(b, "\n# %s\n", note)
	}
	return b.Flush()
}

// statUnit is the unit of a row as one word, the same only for rows of one
// sense.
func (r Row) statUnit() string {
	switch {
	case r.Unit == "":
		return "number"
	case r.Unit == "%":
		return "percent"
	}
	return strings.ReplaceAll(r.Unit, " ", "-")
}
