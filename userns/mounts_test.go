package userns

import (
	"os"
	"syscall"
	"testing"
)

// A file is covered where it is, and where a symbolic link to it is.
func TestCoverTargets(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": "file", "dangling": "nothing"} {
		if err := os.Symlink(target, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		content []byte
		want    []string
		fails   bool
	}{
		{"file", []byte{}, []string{"file"}, false},
		{"link", []byte{}, []string{"file", "link"}, false},
		{"dangling", []byte{}, []string{"dangling"}, false},
		{"missing", []byte{}, nil, true},
		{"file", nil, nil, false},
	} {
		fds, err := cover{dir + "/" + tt.name, tt.content}.targets()
		defer closeAll(fds)
		if (err != nil) != tt.fails || len(fds) != len(tt.want) {
			t.Errorf("%s: got %d targets, %v, want %d", tt.name, len(fds), err, len(tt.want))
			continue
		}
		for i, name := range tt.want {
			st, err := os.Lstat(dir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := inodeOf(fds[i]); err != nil || got.number != st.Sys().(*syscall.Stat_t).Ino {
				t.Errorf("%s: target %d: got %v, %v, want %s", tt.name, i, got, err, name)
			}
		}
	}
}
