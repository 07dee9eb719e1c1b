package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"taproot/test/lab"
)

func main() {
	os.Exit(run())
}

// run is main with an exit status.
func run() int {
	var c conductor
	// A role has a word as its first argument, the conductor has options.
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") {
		var err error
		c.options, err = parseOptions(os.Args[1:], os.Stderr)
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		if err != nil {
			return exitMisuse
		}
		if c.options.render != "" {
			return exit(render(c.options))
		}
	}
	if c.options.taproot != "" {
		// How package lab is told what to test.
		os.Setenv("TAPROOT_BIN", c.options.taproot)
	}
	raiseLimit()
	return lab.Main(&c, programs())
}

// mostFiles is the limit of descriptors that tens of thousands of connections
// need: helpers have up to six for each.
const mostFiles = 400_000

// raiseLimit raises the limit of descriptors, which all processes of the
// benchmark inherit. Only real root may; for others the rows of many connections
// are as good as the limit is.
func raiseLimit() {
	if fileLimit() < mostFiles {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: mostFiles, Max: mostFiles})
	}
}

// fileLimit is the hard limit of descriptors.
func fileLimit() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(limit.Max)
}

// render prints the results of an earlier run.
func render(o options) error {
	results, err := readResults(o.render)
	if err != nil {
		return err
	}
	return results.write(os.Stdout, o.format)
}

// exitMisuse is the exit status for a wrong command line.
const exitMisuse = 2

// options are the command line.
type options struct {
	taproot     string // absolute path; empty means built from this module
	taprootArgs string
	old         string   // absolute path; empty means that no two builds are compared
	render      string   // file with the results of an earlier run; empty means none
	helpers     []string // names; empty means all
	rows        selection
	pace        pace
	quic        string // absolute path; empty means that QUIC is not measured
	congestion  string // TCP congestion control; empty means the machine's
	format      format
	verbose     bool
}

// wants reports whether a contestant was asked for.
func (o options) wants(name string) bool {
	if len(o.helpers) == 0 {
		return o.old == "" || name == newName || name == oldName
	}
	return slices.Contains(o.helpers, name)
}

// parseOptions reads a command line. What is wrong with it has been written
// to messages when it returns an error.
func parseOptions(args []string, messages io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(messages)
	var (
		rows    = flags.String("rows", "", "measure only rows whose key begins with one of these, separated by commas (default all)")
		helpers = flags.String("helpers", "", "of taproot, taproot-off, slirp4netns, pasta, rootlesskit, kernel, loopback only these, separated by commas (default all)")
		old     = flags.String("old", "", "another taproot to compare with: only the two, as old and new, unless -helpers names others too (default none)")
		taproot = flags.String("taproot", "", "the taproot to measure (default built from this module)")
		rounds  = flags.Int("rounds", 0, "rounds (default 3, with -quick 1)")
		quic    = flags.String("quic", "", "the program of test/bench/quic (default none)")
		quick   = flags.Bool("quick", false, "one short round, a few minutes")
	)
	flags.Var(&o.format, "format", "print `FORM`: text, markdown, json or benchstat")
	flags.StringVar(&o.render, "render", "", "measure nothing, print the results in this JSON `FILE` (default none)")
	flags.StringVar(&o.taprootArgs, "taproot-args", "", "more options for taproot run, separated by spaces (default none)")
	flags.StringVar(&o.congestion, "congestion", "reno", "TCP congestion control of host, outside and guest; empty leaves the machine's")
	flags.BoolVar(&o.verbose, "v", false, "tell every value as it is measured")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.rows, err = parseSelection(*rows); err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: none expected", flags.Arg(0))
	}
	for _, path := range []struct {
		given string
		to    *string
	}{{*taproot, &o.taproot}, {*old, &o.old}, {*quic, &o.quic}} {
		if err == nil && path.given != "" {
			*path.to, err = filepath.Abs(path.given)
		}
	}
	if err != nil {
		fmt.Fprintln(messages, "bench:", err)
		return o, err
	}
	if *helpers != "" {
		o.helpers = strings.Split(*helpers, ",")
	}
	o.pace = usualPace()
	if *quick {
		o.pace = quickPace()
	}
	if *rounds > 0 {
		o.pace.rounds = *rounds
	}
	return o, nil
}

// A conductor is what runs inside the laboratory's user namespace. It stands
// in for the test that package lab expects.
type conductor struct {
	options options
	cleanup []func()
	failed  bool
}

// Run measures and prints, and returns the exit status.
func (c *conductor) Run() int {
	level := slog.LevelInfo
	if c.options.verbose {
		level = slog.LevelDebug
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	status := 1
	done := make(chan struct{})
	go func() { // Fatal ends a goroutine, as in package testing
		defer close(done)
		defer c.cleanUp()
		if err := c.conduct(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return
		}
		status = 0
	}()
	<-done
	return status
}

// conduct is the whole run.
func (c *conductor) conduct(ctx context.Context) error {
	results := &Results{Machine: thisMachine(), Rounds: c.options.pace.rounds, Method: c.options.pace.String()}
	laboratory := lab.New(c)
	helpers := installed(c.options, laboratory.TaprootPath(), results)
	world, err := newWorld(ctx, laboratory, c.options.congestion)
	if err != nil {
		return err
	}
	c.furnish(ctx, world, results)
	start := time.Now()
	contest := &contest{world: world, pace: c.options.pace, chosen: c.options.rows, helpers: helpers, results: results}
	if err := errors.Join(contest.run(ctx), world.close()); err != nil {
		return err
	}
	if c.options.congestion != "" {
		results.Machine.Congestion = c.options.congestion
	}
	if load, busy := results.Machine.busy(); busy {
		results.note("the machine had a load of %s before the run: these figures are noisy", load)
	}
	results.Machine.LoadAfter = loadAverage()
	slog.Info("done", "took", time.Since(start).Round(time.Second))
	results.finish(allRows())
	return results.write(os.Stdout, c.options.format)
}

// furnish adds to the world what only some rows need. They are left out without
// it.
func (c *conductor) furnish(ctx context.Context, w *world, results *Results) {
	if c.options.rows.has(lossyKey(false), lossyKey(true)) {
		if err := w.addPath(ctx); err != nil {
			results.note("no path with delay and loss: %v", err)
		}
	}
	if c.options.rows.has(quicKey(false), quicKey(true)) {
		if err := w.startQUIC(c.options.quic); err != nil {
			results.note("no QUIC: %v", err)
		}
	}
}

// cleanUp calls what Cleanup was given, last in first out.
func (c *conductor) cleanUp() {
	for _, f := range slices.Backward(c.cleanup) {
		f()
	}
}

// Helper does nothing: it is one of the methods that package lab wants.
func (c *conductor) Helper() {}

// Cleanup keeps f for the end.
func (c *conductor) Cleanup(f func()) { c.cleanup = append(c.cleanup, f) }

// Failed reports whether Error or Fatal was called.
func (c *conductor) Failed() bool { return c.failed }

// Logf tells something that is interesting only after a failure.
func (c *conductor) Logf(format string, args ...any) {
	slog.Info(fmt.Sprintf(format, args...))
}

// Error reports and goes on.
func (c *conductor) Error(args ...any) {
	c.failed = true
	fmt.Fprintln(os.Stderr, append([]any{"bench:"}, args...)...)
}

// Fatal reports and ends the calling goroutine.
func (c *conductor) Fatal(args ...any) {
	c.Error(args...)
	runtime.Goexit()
}

// Fatalf is Fatal with a format.
func (c *conductor) Fatalf(format string, args ...any) {
	c.Fatal(fmt.Sprintf(format, args...))
}

// Skip is Fatal: without a laboratory nothing can be measured.
func (c *conductor) Skip(args ...any) { c.Fatal(args...) }
