package api

import (
	"context"
	"errors"
	"net/http"
	"os"
	"syscall"

	"taproot/internal/engine"
	"taproot/portfwd"
)

// failureOf returns an error as clients read it, with its remedy if it has one.
func failureOf(err error) *Failure {
	f := &Failure{Message: err.Error()}
	f.Code, f.status = classify(err)
	if h := (interface{ Hint() string })(nil); errors.As(err, &h) {
		f.Remedy = h.Hint()
	}
	if f.Remedy == "" {
		f.Remedy = remedyOf(err)
	}
	if bind := (*portfwd.BindError)(nil); errors.As(err, &bind) {
		f.Port = bind.Port
	}
	return f
}

// classify returns the code and the status of HTTP for an error.
func classify(err error) (code string, status int) {
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.As(err, new(*portfwd.SyntaxError)), is(portfwd.ErrRule, portfwd.ErrSocket):
		return CodeBadRequest, http.StatusBadRequest
	case is(portfwd.ErrNoRule):
		return CodeNotFound, http.StatusNotFound
	case is(syscall.EADDRINUSE, os.ErrExist, engine.ErrBusy):
		return CodeConflict, http.StatusConflict
	case is(syscall.EACCES, syscall.EPERM):
		return CodeForbidden, http.StatusForbidden
	case is(syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM):
		return CodeExhausted, http.StatusInsufficientStorage
	case is(engine.ErrNoEngine, engine.ErrSilent, os.ErrClosed, os.ErrDeadlineExceeded, context.Canceled, context.DeadlineExceeded):
		return CodeNoEngine, http.StatusServiceUnavailable
	}
	return CodeFailed, http.StatusUnprocessableEntity
}
