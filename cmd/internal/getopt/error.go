package getopt

import (
	"fmt"
	"strings"
)

// A UsageError says that a command line does not fit the options. Its text is
// what glibc's getopt_long(3) writes after the program's name and ": ".
type UsageError struct {
	text string
}

// Error returns glibc's words.
func (e *UsageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &UsageError{fmt.Sprintf(format, args...)}
}

// unknown is the error for a long option as it was given, with its argument,
// that is not found: candidates are the options that begin like it.
func unknown(given string, candidates []string) error {
	if len(candidates) == 0 {
		return usagef("unrecognized option '%s'", given)
	}
	var b strings.Builder
	for _, name := range candidates {
		fmt.Fprintf(&b, " '--%s'", name)
	}
	return usagef("option '%s' is ambiguous; possibilities:%s", given, &b)
}
