package main

import (
	"encoding/json"
	"fmt"
	"io"
)

// A format is how results are printed.
type format int

// The formats of -json and -markdown, and the one without either.
const (
	formatText format = iota
	formatMarkdown
	formatJSON
)

// write prints the results.
func (r *Results) write(w io.Writer, as format) error {
	if as == formatJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "\t")
		return encoder.Encode(struct {
			*Results
			Bars []Verdict
		}{r, r.verdicts()})
	}
	for _, line := range r.preface() {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	for _, t := range []table{r.absolute(), r.ratios(), r.promises()} {
		if len(t) < 2 {
			continue
		}
		if err := writeTable(w, t, as); err != nil {
			return err
		}
	}
	for _, note := range r.Notes {
		if _, err := fmt.Fprintf(w, "\nNote: %s\n", note); err != nil {
			return err
		}
	}
	return nil
}

// writeTable writes an empty line and t.
func writeTable(w io.Writer, t table, as format) error {
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if as == formatMarkdown {
		return t.writeMarkdown(w)
	}
	return t.writeText(w)
}

// preface says where and with what the numbers were taken.
func (r *Results) preface() []string {
	lines := []string{r.Machine.String()}
	for _, c := range r.Contestants {
		lines = append(lines, fmt.Sprintf("%s (%s): %s", c.Name, c.Standing, c.Version))
	}
	return lines
}
