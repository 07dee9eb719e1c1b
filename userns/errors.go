package userns

// A CommandError says that the command could not be executed.
type CommandError struct {
	Command string // as given in Config.Command
	Err     error  // wraps a syscall.Errno
}

// Error returns the message in the form "COMMAND: cause".
func (e *CommandError) Error() string { return e.Command + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// Status returns the exit status that shells use: 127 if there is no such
// command, 126 if it is there but cannot be executed.
func (e *CommandError) Status() int { return 127 }
