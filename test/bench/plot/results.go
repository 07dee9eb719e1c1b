package main

import (
	"fmt"
	"slices"
)

// results is what is drawn of the benchmark's JSON.
type results struct {
	Machine struct {
		When, Processor, Kernel string
		CPUs                    int
	}
	Contestants []struct{ Name, Version string }
	Values      map[string]map[string][]float64 // contestant, row, one value a round
}

// value is the median of a contestant's row. It is false if there is none.
func (r results) value(contestant, row string) (float64, bool) {
	sorted := slices.Sorted(slices.Values(r.Values[contestant][row]))
	n := len(sorted)
	if n == 0 {
		return 0, false
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2, true
}

// A group is bars side by side: a row of the benchmark.
type group struct {
	row   string
	label string
}

// groups returns the rows that are drawn, in Gbit/s, from left to right. Those
// without a value are left out.
func (r results) groups() []group {
	var all []group
	for _, place := range []struct{ row, label, to, back string }{
		{"tcp-1500", "MTU 1500", "up", "down"}, {"tcp-65520", "MTU 65520", "up", "down"}, {"nested", "nested", "up", "down"},
		{"published-outside-tcp-65520", "published", "in", "out"},
	} {
		for _, way := range []string{place.to, place.back} {
			for _, flows := range []string{"1", "8"} {
				noun := "flows"
				if flows == "1" {
					noun = "flow"
				}
				all = append(all, group{
					row:   place.row + "-" + way + "-" + flows,
					label: fmt.Sprintf("%s\n%s, %s %s", place.label, way, flows, noun),
				})
			}
		}
	}
	for _, way := range []string{"up", "down"} {
		all = append(all, group{row: "udp-segment-" + way, label: "UDP trains\n" + way})
	}
	return slices.DeleteFunc(all, func(g group) bool {
		return !slices.ContainsFunc(r.names(), func(name string) bool {
			_, ok := r.value(name, g.row)
			return ok
		})
	})
}

// names are those of the contestants.
func (r results) names() []string {
	var all []string
	for _, c := range r.Contestants {
		all = append(all, c.Name)
	}
	return all
}
