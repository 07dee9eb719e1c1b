package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// protocol is the name that both ends negotiate (RFC 7301).
const protocol = "taproot-bench"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The limit of the machine is part of what is measured; everybody has the
	// same.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quic:", err)
		os.Exit(1)
	}
}

// run is main with an error.
func run(ctx context.Context, args []string, output io.Writer) error {
	if len(args) == 2 && args[0] == "serve" {
		return serve(ctx, args[1])
	}
	if len(args) == 0 || args[0] != "transfer" {
		return errors.New("usage: quic serve|transfer")
	}
	flags := flag.NewFlagSet("transfer", flag.ContinueOnError)
	var (
		direction = flags.String("direction", "up", "up or down")
		warm      = flags.Duration("warm", 300*time.Millisecond, "time before the window")
		window    = flags.Duration("window", time.Second, "time in which bytes count")
	)
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("transfer: one address expected")
	}
	got, err := transfer(ctx, flags.Arg(0), request{down: *direction == "down", warm: *warm, window: *window})
	if err != nil {
		return err
	}
	return json.NewEncoder(output).Encode(got)
}
