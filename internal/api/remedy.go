package api

import (
	"errors"
	"fmt"
	"syscall"

	"taproot/portfwd"
)

// A remedied is an error about which somebody can do something.
type remedied struct {
	error
	remedy string
}

// Unwrap gives the error as it was.
func (e *remedied) Unwrap() error { return e.error }

// Hint says what to do.
func (e *remedied) Hint() string { return e.remedy }

// unreached returns why nobody answers at a path.
func unreached(path string, err error) error {
	errno := syscall.Errno(0)
	if !errors.As(err, &errno) {
		return fmt.Errorf("%s: %w", path, err)
	}
	e := &remedied{fmt.Errorf("%s: %w", path, errno), ""} // the words around errno repeat the path
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR:
		e.remedy = "taproot ls shows the instances that run"
	case syscall.ECONNREFUSED:
		e.error = fmt.Errorf("%w: nobody listens there", e.error)
		e.remedy = "its instance has ended, or it is no socket of one; taproot ls shows those that run"
	case syscall.EACCES, syscall.EPERM:
		e.remedy = "an instance is for the user who started it only"
	}
	return e
}

// remedyOf returns what to do about an error that is about a request, or "".
func remedyOf(err error) string {
	bind := (*portfwd.BindError)(nil)
	switch {
	case errors.Is(err, portfwd.ErrNoRule):
		return "taproot ctl ports shows the ids"
	case errors.Is(err, portfwd.ErrSocket):
		return "a socket that is bound, and of TCP listens, is expected"
	case errors.As(err, &bind) && errors.Is(err, syscall.EADDRINUSE):
		return "name another port of the host, or none to have one picked"
	}
	return ""
}
