package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	path := flag.String("o", "", "file that gets the numbers")
	flag.Parse()
	c, err := summarize(os.Stdin, os.Stdout)
	if err == nil && *path != "" {
		err = os.WriteFile(*path, fmt.Appendf(nil, "%d %d %d\n", c.passed, c.failed, c.skipped), 0o666)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", c.passed, c.failed, c.skipped)
	if c.failed > 0 || c.passed+c.skipped == 0 {
		os.Exit(1)
	}
}

// An event is a line of `go test -json` (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// counts are numbers of tests.
type counts struct{ passed, failed, skipped int }

// A report is what is known so far.
type report struct {
	w      io.Writer
	total  counts
	byPkg  map[string]*counts
	output map[string]*strings.Builder // by package and test, until that ends
}

// summarize reads events and writes the report.
func summarize(events io.Reader, w io.Writer) (counts, error) {
	r := &report{w: w, byPkg: map[string]*counts{}, output: map[string]*strings.Builder{}}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			return r.total, nil
		}
		if err != nil {
			return r.total, fmt.Errorf("read events: %w", err)
		}
	}
}

// line takes one line of input. What is not JSON is shown as it is: the go
// command reports some of its own errors so.
func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprintf(r.w, "%s", line)
		return
	}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.w, e.Output)
	case "output":
		key := e.Package + " " + e.Test
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
			return
		}
		r.endTest(e)
	}
}

func (r *report) endTest(e event) {
	key := e.Package + " " + e.Test
	text := r.output[key]
	delete(r.output, key)
	r.count(e.Package, e.Action)
	if e.Action == "pass" || text == nil {
		return
	}
	fmt.Fprintf(r.w, "%s %s %s\n", strings.ToUpper(e.Action), e.Package, e.Test)
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "=== ") || strings.HasPrefix(strings.TrimSpace(line), "--- ") {
			continue // says again what the line above says
		}
		fmt.Fprint(r.w, "    ", line)
	}
}

func (r *report) endPackage(e event) {
	key := e.Package + " "
	text := r.output[key]
	delete(r.output, key)
	c := r.byPkg[e.Package]
	if c == nil {
		c = &counts{}
	}
	if e.Action == "skip" {
		return // no test files
	}
	if e.Action == "fail" && c.failed == 0 {
		r.count(e.Package, "fail")
		if text != nil {
			fmt.Fprint(r.w, text)
		}
		r.unfinished(e.Package)
		c = r.byPkg[e.Package]
	}
	fmt.Fprintf(r.w, "%-4s %-40s %4d passed %3d failed %3d skipped %7.1fs\n",
		e.Action, e.Package, c.passed, c.failed, c.skipped, e.Elapsed)
}

// unfinished shows the output of the tests that were running when their package
// died.
func (r *report) unfinished(pkg string) {
	for key, text := range r.output {
		if strings.HasPrefix(key, pkg+" ") {
			fmt.Fprintf(r.w, "%s\n%s", key, text)
		}
	}
}

// count adds a test that ended so.
func (r *report) count(pkg, action string) {
	c := r.byPkg[pkg]
	if c == nil {
		c = &counts{}
		r.byPkg[pkg] = c
	}
	for _, n := range []*counts{c, &r.total} {
		switch action {
		case "pass":
			n.passed++
		case "fail":
			n.failed++
		case "skip":
			n.skipped++
		}
	}
}
