package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// A format is how results are printed. It is the value of an option (flag.Value).
type format string

// The formats.
const (
	formatText      format = "text"
	formatMarkdown  format = "markdown"
	formatJSON      format = "json"
	formatBenchstat format = "benchstat"
)

// String is the format's name. The zero value is text.
func (f *format) String() string {
	if *f == "" {
		return string(formatText)
	}
	return string(*f)
}

// Set takes a name from the command line.
func (f *format) Set(name string) error {
	all := []format{formatText, formatMarkdown, formatJSON, formatBenchstat}
	if !slices.Contains(all, format(name)) {
		return fmt.Errorf("not one of %v", all)
	}
	*f = format(name)
	return nil
}

// write prints the results.
func (r *Results) write(w io.Writer, as format) error {
	switch as {
	case formatJSON:
		return r.writeJSON(w)
	case formatBenchstat:
		return r.writeBenchstat(w)
	}
	return r.writeTables(w, as)
}

// readResults reads what a run wrote as JSON.
func readResults(path string) (*Results, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// writeJSON writes everything.
func (r *Results) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "\t")
	return encoder.Encode(struct {
		*Results
		Bars []Verdict
	}{r, r.verdicts()})
}

// writeTables writes tables for people.
func (r *Results) writeTables(w io.Writer, as format) error {
	for _, line := range r.preface() {
		if as == formatMarkdown {
			line = "- " + line
		}
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
	lines := []string{r.Machine.String(), r.Method}
	for _, c := range r.Contestants {
		lines = append(lines, fmt.Sprintf("%s (%s): %s", c.Name, c.Standing, c.Version))
	}
	return lines
}
