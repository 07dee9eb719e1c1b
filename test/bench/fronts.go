package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// A rival is a program behind a front: the original, or taproot by its name.
type rival struct {
	contestant string
	helper     Helper
}

// rivals returns who is behind a front. Taproot goes by argv[0], so it needs
// the name.
func (c *contest) rivals(f front) ([]rival, error) {
	var found []rival
	for _, contestant := range c.results.Contestants {
		helper := c.helpers[contestant.Name]
		if !contestant.takesPart([]string{f.readyKey()}) {
			continue
		}
		switch helper.Kind {
		case Taproot:
			dir := filepath.Join(c.lab.Dir, contestant.Name)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return nil, err
			}
			path := filepath.Join(dir, string(f))
			if err := os.Symlink(helper.Path, path); err != nil && !errors.Is(err, os.ErrExist) {
				return nil, err
			}
			found = append(found, rival{contestant.Name, Helper{Kind: Kind(f), Path: path}})
		case Kind(f):
			found = append(found, rival{contestant.Name, helper})
		}
	}
	return found, nil
}

// fronts measures the fronts for one round. Rivals take turns start by start,
// because that is a matter of milliseconds.
func (c *contest) fronts(ctx context.Context, round int) error {
	for _, f := range fronts() {
		rivals, err := c.rivals(f)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(f.rows(), func(row Row) bool { return c.chosen.has(row.Key) }) {
			slog.Info("turns", "round", round+1, "of", c.pace.rounds, "front", f)
		}
		if c.chosen.has(f.readyKey(), f.firstKey()) {
			if rivals, err = c.frontStarts(ctx, f, rivals); err != nil {
				return err
			}
		}
		for _, size := range crowds() {
			if !c.chosen.has(f.pssKey(size), f.rssKey(size)) {
				continue
			}
			for _, r := range rivals {
				if err := c.frontMemory(ctx, f, r, size); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// frontStarts measures how soon helpers are ready, and returns those rivals
// that were.
func (c *contest) frontStarts(ctx context.Context, f front, rivals []rival) ([]rival, error) {
	ready, first := make(map[string][]float64), make(map[string][]float64)
	for range c.pace.starts {
		for _, r := range slices.Clone(rivals) {
			attached, err := c.attach(ctx, f, r, 1)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				c.results.note("%s as %s: %v", r.contestant, f, err)
				rivals = slices.DeleteFunc(slices.Clone(rivals), func(other rival) bool { return other.contestant == r.contestant })
				continue
			}
			ready[r.contestant] = append(ready[r.contestant], microseconds(attached[0].Ready)/1000)
			first[r.contestant] = append(first[r.contestant], microseconds(attached[0].First)/1000)
			if err := c.disperse(ctx); err != nil {
				return nil, err
			}
		}
		slices.Reverse(rivals)
	}
	for _, name := range slices.Sorted(maps.Keys(ready)) {
		c.results.record(name, f.readyKey(), median(ready[name]))
		c.results.record(name, f.firstKey(), median(first[name]))
	}
	return rivals, nil
}

// frontMemory measures the memory of a crowd of idle helpers, each of which has
// had one connection.
func (c *contest) frontMemory(ctx context.Context, f front, r rival, size int) error {
	attached, err := c.attach(ctx, f, r, size)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.results.note("%s as %s, %d at a time: %v", r.contestant, f, size, err)
		return nil
	}
	if err := wait(ctx, c.pace.settle); err != nil {
		return err
	}
	var total usage
	for _, a := range attached {
		total.add(treeUsage(a.PID))
	}
	c.results.record(r.contestant, f.rssKey(size), mebibytes(total.rss)/float64(size))
	if total.pss > 0 {
		c.results.record(r.contestant, f.pssKey(size), mebibytes(total.pss)/float64(size))
	}
	return c.disperse(ctx)
}

// attach starts as many guests, each with a helper. Those that were started
// before one failed are gone again when it returns an error.
func (c *contest) attach(ctx context.Context, f front, r rival, size int) ([]Attached, error) {
	args := AttachArgs{
		Helper:  r.helper,
		MTU:     mtuLarge, // as callers have it
		Command: c.lab.ProgramArgs(roleToldFirst, c.servers.Close),
		Dir:     c.lab.Dir,
	}
	all := make([]Attached, size)
	for i := range all {
		err := within(ctx, func(ctx context.Context) error { return c.host.call(ctx, "Attach", args, &all[i]) })
		if err != nil {
			return nil, errors.Join(err, c.disperse(context.WithoutCancel(ctx)))
		}
	}
	return all, nil
}

// disperse ends what attach started.
func (c *contest) disperse(ctx context.Context) error {
	err := within(ctx, func(ctx context.Context) error { return c.host.call(ctx, "Disperse", Nothing{}, &Nothing{}) })
	if err != nil {
		return fmt.Errorf("end helpers: %w", err)
	}
	return nil
}

// mebibytes converts bytes for a table.
func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
