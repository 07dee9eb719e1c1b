package front

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"taproot/internal/probe"
)

func (p *program) checkCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:               "check",
		Args:              noOperands,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			p.check(c.Context(), asJSON)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// statusUnfit is the exit status of `check` where `run` would not work.
const statusUnfit = 1

// check prints what this machine allows.
func (p *program) check(ctx context.Context, asJSON bool) {
	results := p.probe(ctx)
	for _, r := range results {
		if r.Required && r.Status == probe.Missing {
			p.status = statusUnfit
		}
	}
	if asJSON {
		p.checkJSON(results)
		return
	}
	p.checkText(results)
}

// checkJSON prints an object; its fields are API.
func (p *program) checkJSON(results []probe.Result) {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	// The only error can be that of the stream, which remembers it.
	_ = enc.Encode(struct {
		Version string         `json:"version"`
		Works   bool           `json:"works"`
		Results []probe.Result `json:"results"`
	}{p.version, p.status == 0, results})
}

// checkText prints one line for each result. The remedy, where there is one,
// is the end of the line, to be pasted.
func (p *program) checkText(results []probe.Result) {
	width := 0
	for _, r := range results {
		width = max(width, len(r.Name))
	}
	for _, r := range results {
		line := fmt.Sprintf("%-8s  %-*s  %s", r.Status, width, r.Name, r.Detail)
		if r.Remedy != "" {
			line += "; fix: " + r.Remedy
		}
		p.out.printf("%s\n", line)
	}
	if p.status == 0 {
		p.out.printf("taproot run works here\n")
		return
	}
	p.out.printf("taproot run does not work here\n")
}

// explain gives err, which knows no remedy, that of the first thing that `run`
// needs and this machine does not allow.
func (p *program) explain(ctx context.Context, err error) error {
	for _, r := range p.probe(ctx) {
		if r.Required && r.Status == probe.Missing {
			return &explained{err: err, remedy: r.Remedy}
		}
	}
	return err
}

// An explained error has got a remedy that its origin did not know.
type explained struct {
	err    error
	remedy string
}

// Error implements error.
func (e *explained) Error() string { return e.err.Error() }

// Unwrap gives the error as it was.
func (e *explained) Unwrap() error { return e.err }

// Hint says what to do.
func (e *explained) Hint() string { return e.remedy }
