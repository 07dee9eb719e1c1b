package userns

import (
	"context"
	"encoding/json"
	"errors"
	"os"
)

// A Guest is a guest's first process, seen from the supervisor.
type Guest struct{}

// Start makes the guest's namespaces and has the stage set everything up in
// them. When it returns, the device is open and configured and the command does
// not run yet. If ctx ends before that, everything is undone.
func Start(ctx context.Context, c Config, s Setup) (*Guest, error) {
	return nil, errors.ErrUnsupported
}

// Device returns the descriptor that the opener opened, and its report. The
// caller owns the descriptor and closes it.
func (g *Guest) Device() (*os.File, json.RawMessage) { return nil, nil }

// PID returns the process id, in the supervisor's PID namespace, of the stage,
// which becomes the command, or the guest's process 1 with Config.PID.
func (g *Guest) PID() int { return 0 }

// Go runs the command. It returns when the command was executed, or a
// *CommandError when it could not be.
func (g *Guest) Go() error { return errors.ErrUnsupported }

// Wait waits for the end of the command and returns its exit status, or 128+n
// if signal n ended it. Until then it passes signals on and follows the
// command's stops.
func (g *Guest) Wait() (status int, err error) { return 0, errors.ErrUnsupported }

// Kill ends the guest. It is safe to call from several goroutines, at any time.
func (g *Guest) Kill() {}

// Close ends the guest if it still lives, and releases what it holds.
func (g *Guest) Close() error { return nil }
