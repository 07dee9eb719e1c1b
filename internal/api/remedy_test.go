package api

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"taproot/portfwd"
)

// TestUnreached wants who calls in vain to hear why, once, and what to do.
func TestUnreached(t *testing.T) {
	dir := t.TempDir()
	dead, file := filepath.Join(dir, "dead"), write(t, filepath.Join(dir, "file"))
	leave(t, dead)
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file or directory",
		filepath.Join(file, "x"):   "not a directory",
		dead:                       "connection refused: nobody listens there",
		file:                       "connection refused: nobody listens there",
	} {
		c := NewClient(path)
		defer c.Close()
		_, err := c.Info(t.Context())
		h := (interface{ Hint() string })(nil)
		if err == nil || err.Error() != path+": "+want || !errors.As(err, &h) || !strings.Contains(h.Hint(), "taproot ls") {
			t.Errorf("got error %v, want %s: %s, and taproot ls as the remedy", err, path, want)
		}
	}
}

// TestRemedies wants failures of requests to say what to do.
func TestRemedies(t *testing.T) {
	b := newBench(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, taken := b.Publish(t.Context(), Publication{Publish: []string{netip.MustParseAddrPort(busy.Addr().String()).String() + ":80"}})
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"no rule":    {b.Unpublish(t.Context(), 99), "taproot ctl ports"},
		"taken":      {taken, "another port"},
		"not a port": {failureOf(portfwd.ErrSocket), "a socket that is bound"},
	} {
		f := (*Failure)(nil)
		if !errors.As(tt.err, &f) || !strings.Contains(f.Remedy, tt.want) {
			t.Errorf("%s: got error %v with remedy %q, want %q", name, tt.err, f.Hint(), tt.want)
		}
	}
}
