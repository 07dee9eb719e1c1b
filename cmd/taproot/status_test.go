package main

import (
	"errors"
	"os/exec"
	"strconv"
)

// exitStatus returns the exit status in err as a script writes it.
func exitStatus(err error) string {
	if err == nil {
		return "0"
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return strconv.Itoa(exit.ExitCode())
	}
	return err.Error()
}
