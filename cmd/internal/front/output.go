package front

import (
	"fmt"
	"io"
	"sync"

	"taproot/cmd/internal/caller"
)

// An output is a stream that remembers its first failure, so that what prints
// need not care and a full disk is still not taken for success. It is safe for
// concurrent use: the engine's warnings come from its own goroutines.
type output struct {
	// journal says that each line begins with its priority.
	journal bool

	mu sync.Mutex
	// +checklocks:mu
	w io.Writer
	// +checklocks:mu
	bad error
}

// newOutput returns an output to w.
func newOutput(w io.Writer) *output { return &output{w: w} }

// Write implements io.Writer. After a failure it writes nothing more.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bad != nil {
		return 0, o.bad
	}
	n, err := o.w.Write(b)
	o.bad = err
	return n, err
}

// printf formats to the stream. Whether that worked is known by failure.
func (o *output) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(o, format, args...)
}

// say is printf of whole lines with a priority.
func (o *output) say(p caller.Priority, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if o.journal {
		text = p.Mark(text)
	}
	_, _ = io.WriteString(o, text)
}

// engine returns where the engine's own words go, line by line; nil is standard
// error.
func (o *output) engine() io.Writer {
	if o.journal {
		return caller.PriorityInfo.Writer(o)
	}
	return nil
}

// failure returns the first error, nil if all was written.
func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bad
}
