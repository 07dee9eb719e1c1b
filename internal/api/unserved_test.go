package api

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"taproot/test/settle"
)

// TestUnserved wants what is no request, of which no handler hears, to be counted.
func TestUnserved(t *testing.T) {
	b := newBench(t)
	if _, err := b.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Client.Close() // an idle connection
	b.dial(t).Close()
	for i, text := range []string{
		"nonsense\r\n\r\n",
		"GET /v1/info HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n",
		"GET /v1/in",
	} {
		c := b.dial(t)
		_, _ = io.WriteString(c, text) // more than is read
		c.CloseWrite()
		settle.Until(t, fmt.Sprintf("%.20q is counted", text), func() bool { return b.server.away.requests.Load() == uint64(i+1) })
	}
}

// TestProgress plays what package http tells.
func TestProgress(t *testing.T) {
	const handled = -1
	for _, tt := range []struct {
		name   string
		states []http.ConnState
		last   error // of reading
		want   bool
	}{
		{"nothing", []http.ConnState{http.StateNew, http.StateClosed}, io.EOF, false},
		{"nothing for too long", []http.ConnState{http.StateNew, http.StateClosed}, os.ErrDeadlineExceeded, true},
		{"half a header", []http.ConnState{http.StateNew, http.StateActive, http.StateClosed}, os.ErrDeadlineExceeded, true},
		{"a request", []http.ConnState{http.StateNew, http.StateActive, handled, http.StateIdle, http.StateClosed}, os.ErrDeadlineExceeded, false},
		{"a request and a half", []http.ConnState{http.StateNew, http.StateActive, handled, http.StateIdle, http.StateActive, http.StateClosed}, io.EOF, true},
		{"a request that is cut off", []http.ConnState{http.StateNew, http.StateActive, handled, http.StateClosed}, os.ErrDeadlineExceeded, false},
	} {
		var p progress
		got := false
		for _, s := range tt.states {
			if s == handled {
				p.handled = true
				continue
			}
			p.note(tt.last)
			got = p.change(s)
		}
		if got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
