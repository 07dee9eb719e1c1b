package probe

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Args[0] == ChildName {
		os.Exit(ChildMain())
	}
	os.Exit(m.Run())
}

func TestAll(t *testing.T) {
	want := []string{
		"user namespaces", "tun", "offloads", "subordinate ids", "ping", "low ports",
		"ipv6", "resolvers", "landlock", "seccomp", "tproxy", "sandbox",
	}
	got := All(context.Background())
	if len(got) != len(want) {
		t.Fatalf("got %d rows, want %d: %v", len(got), len(want), got)
	}
	for i, r := range got {
		if r.Name != want[i] || r.Required != (i < 2) || r.Detail == "" {
			t.Errorf("got %+v, want the row %s", r, want[i])
		}
		if r.Status != OK && r.Status != Degraded && r.Status != Missing {
			t.Errorf("%s: got status %q", r.Name, r.Status)
		}
		if strings.ContainsAny(r.Detail+r.Remedy, "\n") {
			t.Errorf("%s: got %q, %q, want one line each", r.Name, r.Detail, r.Remedy)
		}
	}
}

// Required and All must agree.
func TestRequired(t *testing.T) {
	err := Required(context.Background())
	rows := All(context.Background())
	works := rows[0].Status != Missing && rows[1].Status != Missing
	if (err == nil) != works {
		t.Fatalf("got %v, want an error: %v", err, !works)
	}
	var u *Unsupported
	if err != nil && !errors.As(err, &u) {
		t.Fatalf("got %T, want %T", err, u)
	}
}

func TestChildCannotStart(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, inside := host{}.tryChild(ctx)
	if r.Status != Missing || r.Name != nameUserNS {
		t.Errorf("got %+v, want user namespaces missing", r)
	}
	if got := inside.row(nameTProxy); got.Status != Missing || got.Required {
		t.Errorf("got %+v, want missing and not required", got)
	}
	if got := inside.row(nameTUN); !got.Required {
		t.Errorf("got %+v, want it required", got)
	}
}

// files makes a host whose files are only these.
func files(t *testing.T, texts map[string]string) host {
	t.Helper()
	root := t.TempDir()
	for path, text := range texts {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return host{root: root}
}

func TestTUNAlone(t *testing.T) {
	if got := files(t, map[string]string{tunPath: ""}).tunAlone()[0]; got.Status != OK {
		t.Errorf("got %+v, want ok", got)
	}
	got := files(t, nil).tunAlone()[0]
	if want := "as root: modprobe tun"; got.Status != Missing || got.Remedy != want {
		t.Errorf("got %+v, want missing and %q", got, want)
	}
}

func TestLowPorts(t *testing.T) {
	const path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
	tests := []struct {
		name  string
		files map[string]string
		want  Status
	}{
		{"default", map[string]string{path: "1024\n"}, Degraded},
		{"old kernel", nil, Degraded},
		{"all open", map[string]string{path: "0\n"}, OK},
		{"capability", map[string]string{path: "1024\n", "/proc/self/status": "Name:\tx\nCapEff:\t0000000000000400\n"}, OK},
		{"other capability", map[string]string{path: "1024\n", "/proc/self/status": "CapEff:\t0000000000000800\n"}, Degraded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := files(t, tt.files).lowPorts(); got.Status != tt.want {
				t.Errorf("got %+v, want %v", got, tt.want)
			}
		})
	}
}

func TestResolvers(t *testing.T) {
	tests := []struct {
		name, text string
		status     Status
		detail     string
	}{
		{"two", "nameserver 192.0.2.1\nsearch x\nnameserver 2001:db8::1\n", OK, "192.0.2.1, 2001:db8::1"},
		{"none", "search x\nnameserver\nnameserver example.org\n", Missing, "no nameserver in /etc/resolv.conf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := files(t, map[string]string{"/etc/resolv.conf": tt.text}).resolvers()
			if got.Status != tt.status || got.Detail != tt.detail {
				t.Errorf("got %+v, want %v, %q", got, tt.status, tt.detail)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	var err error = &Unsupported{Feature: "landlock", Since: "Linux 5.13", Remedy: "do y", Err: unix.ENOSYS}
	if got, want := err.Error(), "landlock (Linux 5.13): function not implemented"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, unix.ENOSYS) {
		t.Error("the cause is lost")
	}
	var h interface{ Hint() string }
	if !errors.As(err, &h) || h.Hint() != "do y" {
		t.Errorf("got hint of %v, want do y", err)
	}
}
