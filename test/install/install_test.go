package install

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const repository = "../.."

// make runs make with a mask that lets nobody but the owner in.
func runMake(t *testing.T, arguments ...string) {
	t.Helper()
	line := append([]string{"-c", `umask 077; exec make "$@"`, "sh", "-C", repository}, arguments...)
	if out, err := exec.Command("sh", line...).CombinedOutput(); err != nil {
		t.Fatalf("make %v: %v\n%s", arguments, err, out)
	}
}

// files returns what is below a directory, but for directories: modes by path, a
// link's target instead of its mode.
func files(t *testing.T, root string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			target, err := os.Readlink(path)
			found[name] = "-> " + target
			return err
		}
		info, err := d.Info()
		if err == nil {
			found[name] = info.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// installed are the files of an installation below /usr, but for manual pages.
func installed() map[string]string {
	const plain = "-rw-r--r--"
	return map[string]string{
		"usr/bin/taproot":                                  "-rwxr-xr-x",
		"usr/libexec/taproot/slirp4netns":                  "-> ../../bin/taproot",
		"usr/libexec/taproot/pasta":                        "-> ../../bin/taproot",
		"usr/libexec/taproot/pesto":                        "-> ../../bin/taproot",
		"usr/lib/systemd/user/taproot@.service":            plain,
		"usr/share/bash-completion/completions/taproot":    plain,
		"usr/share/zsh/site-functions/_taproot":            plain,
		"usr/share/fish/vendor_completions.d/taproot.fish": plain,
		"etc/apparmor.d/taproot":                           plain,
		"usr/share/man/man1/taproot.1.gz":                  plain,
		"usr/share/man/man1/taproot-ctl.1.gz":              plain,
		"usr/share/man/man1/taproot-pasta.1.gz":            plain,
		"usr/share/man/man1/taproot-pesto.1.gz":            plain,
		"usr/share/man/man1/taproot-slirp4netns.1.gz":      plain,
	}
}

// TestInstall wants each file where it belongs, for everybody to read, and nothing
// else; and nothing at all after uninstall.
func TestInstall(t *testing.T) {
	root, out := t.TempDir(), t.TempDir()
	where := []string{"OUT=" + out, "DESTDIR=" + root, "PREFIX=/usr", "APPARMOR=yes"}
	runMake(t, append(where, "install")...)
	got, want := files(t, root), installed()
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s: got %q, want %q", name, got[name], mode)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s: got %q, want nothing", name, got[name])
		}
	}
	wantDirectories(t, root)
	wantPages(t, root)
	wantNames(t, root)
	wantWords(t, root)
	runMake(t, append(where, "uninstall")...)
	if left := files(t, root); len(left) > 0 {
		t.Errorf("after uninstall: got %v, want nothing", left)
	}
	if _, err := os.Lstat(filepath.Join(root, "usr/libexec/taproot")); !os.IsNotExist(err) {
		t.Errorf("after uninstall: got %v, want our directory to be gone", err)
	}
	runMake(t, append(where, "uninstall")...) // there is nothing to do
}

// wantDirectories wants everybody to get to the program and to its other names.
func wantDirectories(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"usr/bin", "usr/libexec/taproot", "usr/share/man/man1"} {
		info, err := os.Stat(filepath.Join(root, dir))
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: got %v and error %v, want mode 0755", dir, info, err)
		}
	}
}

// wantPages wants all manual pages of the repository, as they are.
func wantPages(t *testing.T, root string) {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(repository, "docs", "man", "*.1"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("manual pages: got %v and error %v", pages, err)
	}
	for _, page := range pages {
		want, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(root, "usr/share/man/man1", filepath.Base(page)+".gz"))
		if err != nil {
			t.Error(err)
			continue
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Errorf("%s: %v", page, err)
			continue
		}
		if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another text is installed (error %v)", page, err)
		}
	}
}

// wantNames wants the other names to be the other programs.
func wantNames(t *testing.T, root string) {
	t.Helper()
	for name, want := range map[string]string{
		"bin/taproot": "Usage: taproot ", "libexec/taproot/slirp4netns": "Usage: ",
		"libexec/taproot/pasta": "Usage: pasta ", "libexec/taproot/pesto": "Usage: pesto ",
	} {
		out, err := exec.Command(filepath.Join(root, "usr", name), "--help").Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s --help: got %.60q and error %v, want it to contain %q", name, out, err, want)
		}
	}
}

// wantWords wants files to name the program where it is installed.
func wantWords(t *testing.T, root string) {
	t.Helper()
	for name, want := range map[string]string{
		"usr/lib/systemd/user/taproot@.service":            "ExecStart=/usr/bin/taproot attach ",
		"etc/apparmor.d/taproot":                           "/usr/bin/taproot",
		"usr/share/bash-completion/completions/taproot":    "__start_taproot",
		"usr/share/zsh/site-functions/_taproot":            "#compdef taproot",
		"usr/share/fish/vendor_completions.d/taproot.fish": "complete -c taproot",
	} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !strings.Contains(string(text), want) || strings.Contains(string(text), "@BINDIR@") {
			t.Errorf("%s: got %.60q and error %v, want it to contain %q", name, text, err, want)
		}
	}
}

// TestNoProfile wants no profile of AppArmor where nothing says that it is understood.
func TestNoProfile(t *testing.T) {
	out, err := exec.Command("make", "-C", repository, "-n", "DESTDIR="+t.TempDir(), "install").Output()
	if err != nil || strings.Contains(string(out), "etc/apparmor.d") {
		t.Errorf("got %q and error %v, want no profile", out, err)
	}
}

// TestUnit has systemd-analyze(1) look at the unit as it is installed, where there is
// one: what it says goes wrong fails the test.
func TestUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze")
	}
	unit, err := os.ReadFile(filepath.Join(repository, "docs", "systemd", "taproot@.service"))
	if err != nil {
		t.Fatal(err)
	}
	// It wants the program to be there.
	dir := t.TempDir()
	program := filepath.Join(dir, "taproot")
	text := bytes.ReplaceAll(unit, []byte("@BINDIR@"), []byte(dir))
	path := filepath.Join(dir, "taproot@.service")
	for name, content := range map[string][]byte{program: []byte("#!/bin/sh\n"), path: text} {
		if err := os.WriteFile(name, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil { // it minds a unit that can be executed
		t.Fatal(err)
	}
	c := exec.Command(analyze, "--user", "--man=no", "verify", path)
	c.Env = append(slices.Clone(os.Environ()), "XDG_RUNTIME_DIR="+dir)
	out, err := c.CombinedOutput()
	if err != nil || strings.Contains(string(out), "taproot@") {
		t.Errorf("got %v and %q, want it to have nothing to say", err, out)
	}
}
