package engine

import (
	"context"
	"fmt"
	"io"
	"time"

	"taproot/stack/flow"
)

// reportUntil writes the counters to w every so often, until ctx ends.
func (g *gateway) reportUntil(ctx context.Context, w io.Writer, every time.Duration) error {
	if every <= 0 {
		return nil
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if _, err := io.WriteString(w, g.report()); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// report returns the counters as one line.
func (g *gateway) report() string {
	line := ""
	for _, p := range []flow.Proto{flow.TCP, flow.UDP, flow.ICMP} {
		s := g.flows.Stats(p)
		line += fmt.Sprintf("%v: %d live, %d opened, %d refused; ", p, s.Live, s.Opened, s.Refused)
	}
	if g.stack == nil {
		return line[:len(line)-2] + "\n"
	}
	if g.shortcut != nil {
		c := &g.shortcut.Stats
		line += fmt.Sprintf("shortcut: %d connected, %d by frames after all, %d strangers reset; ", c.Connected.Load(), c.Handed.Load(), c.Unknown.Load())
	}
	l := g.stack.Link()
	return line + fmt.Sprintf("frames: %d in, %d out, %d malformed, %d spoofed, %d unsent\n",
		l.Received.Load(), l.Sent.Load(), l.Malformed.Load(), l.Spoofed.Load(), l.Unsent.Load())
}
