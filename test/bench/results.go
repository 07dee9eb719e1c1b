package main

import (
	"fmt"
	"math"
	"slices"
)

// Standing is what a contestant is compared as.
type Standing string

// Standings. Peers are what a bar is measured against; the limit is not. A
// variant is taproot with other options; the ceiling is what the machine does
// without any helper, and stands beside.
const (
	Ours    Standing = "ours"
	Variant Standing = "variant"
	Peer    Standing = "peer"
	Limit   Standing = "limit"
	Ceiling Standing = "ceiling"
)

// A Contestant is one column of the table.
type Contestant struct {
	Name     string
	Version  string
	Standing Standing

	// only are the keys of the rows that it takes part in; none means all.
	only []string
}

// takesPart reports whether the contestant is measured in one of the rows.
func (c Contestant) takesPart(keys []string) bool {
	return len(c.only) == 0 || slices.ContainsFunc(keys, func(key string) bool { return slices.Contains(c.only, key) })
}

// Results is all that a run found out. Its JSON form is what -json prints.
type Results struct {
	Machine     Machine
	Method      string
	Rounds      int
	Contestants []Contestant
	Rows        []Row                           // only those with a value
	Values      map[string]map[string][]float64 // contestant, row key, one value a round
	Notes       []string                        // what failed or is unlike the plan
}

// record adds the value of one round. What is no number, because a helper
// stood still, is none: JSON could not hold it.
func (r *Results) record(contestant, key string, value float64) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	if r.Values == nil {
		r.Values = make(map[string]map[string][]float64)
	}
	if r.Values[contestant] == nil {
		r.Values[contestant] = make(map[string][]float64)
	}
	r.Values[contestant][key] = append(r.Values[contestant][key], value)
}

// note adds a remark for the reader of the table, once.
func (r *Results) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, known := range r.Notes {
		if known == text {
			return
		}
	}
	r.Notes = append(r.Notes, text)
}

// value returns the median of the rounds. It is false if there is none.
func (r *Results) value(contestant, key string) (float64, bool) {
	values := r.Values[contestant][key]
	return median(values), len(values) > 0
}

// finish keeps the rows that anybody has a value in.
func (r *Results) finish(rows []Row) {
	for _, row := range rows {
		for _, c := range r.Contestants {
			if _, ok := r.value(c.Name, row.Key); ok {
				r.Rows = append(r.Rows, row)
				break
			}
		}
	}
}

// best returns the best value that contestants of a standing have in row, and
// who has it. It is false if none has one.
func (r *Results) best(standing Standing, row Row) (value float64, name string, ok bool) {
	for _, c := range r.Contestants {
		if c.Standing != standing {
			continue
		}
		v, has := r.value(c.Name, row.Key)
		if has && (!ok || better(v, value, row.Lower)) {
			value, name, ok = v, c.Name, true
		}
	}
	return value, name, ok
}

// better reports whether a is strictly better than b.
func better(a, b float64, lower bool) bool {
	if lower {
		return a < b
	}
	return a > b
}
