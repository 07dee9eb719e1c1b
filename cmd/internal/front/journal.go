package front

import (
	"context"
	"io"
	"log/slog"

	"taproot/cmd/internal/caller"
)

// A journalHandler writes a log for the journal: each line with its priority, and
// without the time and the level, which the journal has. It has a handler for each
// priority.
type journalHandler map[caller.Priority]slog.Handler

// newJournalHandler returns a handler of what is at least of a level.
func newJournalHandler(w io.Writer, level slog.Level) journalHandler {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}}
	h := make(journalHandler)
	for _, p := range []caller.Priority{caller.PriorityError, caller.PriorityWarning, caller.PriorityInfo, caller.PriorityDebug} {
		h[p] = slog.NewTextHandler(p.Writer(w), options)
	}
	return h
}

// priority returns the priority of a level.
func priority(l slog.Level) caller.Priority {
	switch {
	case l >= slog.LevelError:
		return caller.PriorityError
	case l >= slog.LevelWarn:
		return caller.PriorityWarning
	case l >= slog.LevelInfo:
		return caller.PriorityInfo
	}
	return caller.PriorityDebug
}

// Enabled implements slog.Handler.
func (h journalHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h[priority(l)].Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	return h[priority(r.Level)].Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithGroup(name) })
}

// each returns a handler in which each one was changed.
func (h journalHandler) each(change func(slog.Handler) slog.Handler) journalHandler {
	changed := make(journalHandler, len(h))
	for p, one := range h {
		changed[p] = change(one)
	}
	return changed
}
