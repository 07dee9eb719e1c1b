package e2e

import (
	"fmt"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"taproot/test/lab"
)

// bigBody is the size of the bodies that go each way, in bytes.
const bigBody = 100_000_000

func TestHTTP(t *testing.T) {
	lab.NeedProgram(t, "curl")
	l := newLab(t)
	web := serveWeb(t, l.Outside)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			l := l.With(t)
			got := guest(l, nil, "curl", "-sS", "--fail", url(f.outside, web, "/peer")).MustRun()
			wantText(t, "the server saw", got, f.host)
		})
	}
}

// TestBody moves 100 MB each way with every variant, and compares hashes.
func TestBody(t *testing.T) {
	lab.NeedProgram(t, "curl")
	want := hash(body(bigBody))
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			l := newLab(t)
			web := serveWeb(t, l.Outside)
			upload := filepath.Join(l.Dir, "body")
			writeBody(t, upload)
			for _, f := range families {
				t.Run(f.name, func(t *testing.T) {
					lab.Need(t, f.needs...)
					l := l.With(t)
					to := filepath.Join(l.Dir, "got-"+f.name)
					down := guest(l, v.options, "curl", "-sS", "--fail", "-o", to, url(f.outside, web, fmt.Sprintf("/bytes/%d", bigBody)))
					down.MustRun()
					got, err := os.Open(to)
					if err != nil {
						t.Fatal(err)
					}
					defer got.Close()
					wantText(t, "hash of what came in", hash(got), want)
					up := guest(l, v.options, "curl", "-sS", "--fail", "-T", upload, url(f.outside, web, "/hash"))
					wantText(t, "hash of what went out", up.MustRun(), want)
				})
			}
		})
	}
}

func writeBody(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadFrom(body(bigBody)); err != nil {
		t.Fatal(err)
	}
}

func TestGitClone(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "git")
	l := newLab(t)
	dir := filepath.Join(l.Dir, "repositories", "source.git")
	makeRepository(t, l, dir)
	libexec, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := filepath.Join(strings.TrimSpace(string(libexec)), "git-http-backend")
	web := serveHandler(t, l.Outside, &cgi.Handler{
		Path: backend,
		Env: []string{
			"GIT_PROJECT_ROOT=" + filepath.Dir(dir), "GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
	})
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lab.Need(t, f.needs...)
			l := l.With(t)
			to := filepath.Join(l.Dir, "clone-"+f.name)
			guest(l, nil, "git", "clone", "-q", url(f.outside, web, "/source.git"), to).MustRun()
			got, err := os.ReadFile(filepath.Join(to, "file"))
			if err != nil {
				t.Fatal(err)
			}
			wantText(t, "the file", string(got), "content")
		})
	}
}

// makeRepository makes a bare git repository with one file in it.
func makeRepository(t *testing.T, l *lab.Lab, dir string) {
	t.Helper()
	work := filepath.Join(l.Dir, "work")
	script := fmt.Sprintf(`set -e
git init -q -b main %[1]s
cd %[1]s
echo content >file
git add file
git -c user.name=n -c user.email=e@example.test commit -q -m first
git clone -q --bare . %[2]s`, work, dir)
	l.Outside.Command("sh", "-c", script).MustRun()
}
