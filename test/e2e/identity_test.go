package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/test/lab"
)

func TestIdentity(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tests := []struct {
		name    string
		options []string
		want    string
	}{
		{"root", nil, "0 0"},
		{"kept", []string{"--keep-id"}, fmt.Sprint(lab.UserID, " ", lab.UserID)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := l.With(t)
			file := filepath.Join(tmpDir(l), tt.name)
			got := guest(l, tt.options, "sh", "-c", "echo $(id -u) $(id -g); touch "+file).MustRun()
			defer os.Remove(file)
			wantText(t, "ids", got, tt.want)
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			directory, err := os.Stat(l.Dir)
			if err != nil {
				t.Fatal(err)
			}
			// Dir belongs to the ordinary user.
			if got, want := info.Sys().(*syscall.Stat_t).Uid, directory.Sys().(*syscall.Stat_t).Uid; got != want {
				t.Errorf("owner on the host: got %d, want %d", got, want)
			}
		})
	}
}

// TestMapAuto has newuidmap and newgidmap where they work: root's, on a mount
// that allows set-uid programs, in a namespace with ids to give away.
func TestMapAuto(t *testing.T) {
	t.Parallel()
	lab.Need(t, lab.SubIDs)
	lab.NeedProgram(t, "newuidmap", "newgidmap")
	l := newLab(t)
	bin := l.SetUID("newuidmap", "newgidmap")
	l.SubIDs("user:10000:20000\n")
	c := guest(l, []string{"--map-auto"}, "sh", "-c", "id -u; touch $TMPDIR/f && chown 5:5 $TMPDIR/f && stat -c %u $TMPDIR/f && rm $TMPDIR/f")
	c.Env = append(c.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	wantText(t, "ids", c.MustRun(), "0\n5")
}

func TestMapAutoMissing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.SubIDs("user:10000:20000\n")
	c := guest(l, []string{"--map-auto"}, "true")
	c.Env = append(c.Env, "PATH=/nowhere")
	c.MustStart()
	wantFailure(t, c, 125)
	wantContains(t, "message", c.Err(), "newuidmap")
}

// TestCapabilities: the engine has none and can get none, whoever starts it.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	root := l.Host.Command(l.TaprootPath(), "run", "--", "sleep", "1000")
	for name, c := range map[string]*lab.Cmd{"user": guest(l, nil, "sleep", "1000"), "root": root} {
		t.Run(name, func(t *testing.T) {
			c.MustStart()
			// While it starts it may still have what it is about to drop.
			var text string
			l.Eventually("the command runs", func() bool {
				return slices.ContainsFunc(lab.Below(c.Process.Pid), func(p lab.Process) bool { return p.Args == "sleep 1000" })
			})
			l.Eventually("the engine is there", func() bool {
				for _, p := range lab.Below(c.Process.Pid) {
					if strings.HasPrefix(p.Args, engineName) {
						b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
						text = string(b)
						return err == nil
					}
				}
				return false
			})
			wantContains(t, "status of the engine", text, "NoNewPrivs:\t1",
				"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000")
			if err := c.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			c.Status()
		})
	}
}

// TestNamespaces: each option gives the command one more namespace of its own.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const show = "for n in user net mnt pid ipc uts; do echo $n $(readlink /proc/$$/ns/$n); done"
	// The shell that runs taproot tells its own first and lives on meanwhile:
	// the numbers of namespaces that are gone are used again.
	links := func(options ...string) (outside, inside map[string]string) {
		args := append([]string{"-c", show + `; "$@"; exit`, "sh", l.TaprootPath(), "run"}, options...)
		c := l.User("sh", append(args, "--", "sh", "-c", show)...)
		c.Env = append(c.Env, "XDG_RUNTIME_DIR="+runtimeDir(l))
		out := c.MustRun()
		outside, inside = map[string]string{}, map[string]string{}
		for line := range strings.Lines(out) {
			name, link, _ := strings.Cut(strings.TrimSpace(line), " ")
			if _, ok := outside[name]; !ok {
				outside[name] = link
			} else {
				inside[name] = link
			}
		}
		return outside, inside
	}
	tests := []struct{ option, own string }{
		{"", "user net mnt"},
		{"--pid", "user net mnt pid"},
		{"--ipc", "user net mnt ipc"},
		{"--uts", "user net mnt uts"},
	}
	for _, tt := range tests {
		var options []string
		if tt.option != "" {
			options = append(options, tt.option)
		}
		outside, inside := links(options...)
		if len(inside) != 6 {
			t.Errorf("%q: got %v, want six namespaces", tt.option, inside)
		}
		for name, link := range inside {
			own := link != outside[name]
			if want := strings.Contains(tt.own, name); own != want {
				t.Errorf("%q: own %s namespace: got %v, want %v", tt.option, name, own, want)
			}
		}
	}
}

func TestPIDNamespace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// The guest's /proc has its own processes and no others.
	got := guest(l, []string{"--pid"}, "sh", "-c", "test -d /proc/$$ && ls -d /proc/[0-9]* | wc -l").MustRun()
	if n, err := strconv.Atoi(strings.TrimSpace(got)); err != nil || n > 5 {
		t.Errorf("processes in /proc: got %q, want no more than init, the shell, and those of its pipe", got)
	}
}
