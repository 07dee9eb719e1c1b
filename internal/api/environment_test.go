package api

import (
	"errors"
	"os"
	"testing"
)

func TestListenAsked(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, tt := range []struct {
		word    string
		listens bool
		fails   bool
	}{{"", false, false}, {"off", false, false}, {"auto", true, false}, {"on", false, true}} {
		t.Setenv(Variable, tt.word)
		s, err := ListenAsked(Config{Name: "x"})
		if (s != nil) != tt.listens || (err != nil) != tt.fails {
			t.Errorf("%q: got %v and error %v, want %v", tt.word, s, err, tt)
		}
		s.Start(t.Context(), newFakeInstance(), nil)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(Path("x")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: the socket is left: %v", tt.word, err)
		}
	}
}
