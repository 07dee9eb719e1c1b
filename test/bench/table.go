package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// A table is rows of cells; the first row is the head.
type table [][]string

// none stands for a value that there is not.
const none = "-"

// absolute is the table of medians.
func (r *Results) absolute() table {
	head := []string{"median of " + plural(r.Rounds, "round"), "unit"}
	for _, c := range r.Contestants {
		head = append(head, c.Name)
	}
	t := table{head}
	for _, row := range r.Rows {
		line := []string{row.Title, row.Unit}
		for _, c := range r.Contestants {
			line = append(line, r.cell(c.Name, row.Key))
		}
		t = append(t, line)
	}
	return t
}

// cell is the median of a contestant's row.
func (r *Results) cell(contestant, key string) string {
	value, ok := r.value(contestant, key)
	if !ok {
		return none
	}
	return number(value)
}

// ratios is the table of our values divided by those of the best peer and of
// the limit. It has only a head if there is nothing to compare.
func (r *Results) ratios() table {
	ours, ok := r.contestant(Ours)
	if !ok {
		return nil
	}
	t := table{{ours + " divided by", "best peer", "which", "limit", "better is"}}
	for _, row := range r.Rows {
		value, ok := r.value(ours, row.Key)
		if !ok {
			continue
		}
		peer, name, hasPeer := r.best(Peer, row)
		limit, _, hasLimit := r.best(Limit, row)
		toPeer, toLimit := ratio(value, peer, hasPeer), ratio(value, limit, hasLimit)
		if toPeer == none && toLimit == none {
			continue
		}
		if toPeer == none {
			name = none
		}
		sense := "more"
		if row.Lower {
			sense = "less"
		}
		t = append(t, []string{row.Title, toPeer, name, toLimit, sense})
	}
	return t
}

// ratio writes a divided by b, if there is a b.
func ratio(a, b float64, ok bool) string {
	if !ok || b == 0 {
		return none
	}
	return number(a/b) + "x"
}

// promises is the table of the bars.
func (r *Results) promises() table {
	t := table{{"bar", "of", "promise", "measured", "against", "verdict"}}
	for _, v := range r.verdicts() {
		t = append(t, []string{v.Row.Title, v.Ours, v.Bar, v.Measured, v.Peer, v.String()})
	}
	return t
}

// number writes v with three significant digits, and at least the integer.
func number(v float64) string {
	size := math.Abs(v)
	switch {
	case size == 0:
		return "0"
	case size >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case size >= 9.995:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// writeText writes t with its columns aligned: the first to the left, the
// others to the right.
func (t table) writeText(w io.Writer) error {
	widths := t.widths()
	for _, line := range t {
		var b strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				b.WriteString(cell + pad)
			} else {
				b.WriteString("  " + pad + cell)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// writeMarkdown writes t as a Markdown table.
func (t table) writeMarkdown(w io.Writer) error {
	for i, line := range t {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | ")); err != nil {
			return err
		}
		if i > 0 {
			continue
		}
		rule := "|---|" + strings.Repeat("---:|", len(line)-1)
		if _, err := fmt.Fprintln(w, rule); err != nil {
			return err
		}
	}
	return nil
}

// widths returns the width of each column in characters.
func (t table) widths() []int {
	if len(t) == 0 {
		return nil
	}
	widths := make([]int, len(t[0]))
	for _, line := range t {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}
