package pasta

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"taproot/internal/engine"
	"taproot/portfwd"
	"taproot/userns"
)

// A call is one run of the program with everything below it replaced.
type call struct {
	status int // of the command
	err    error

	to             engine.Attachment // what the engine got
	guest          userns.Config
	config         engine.Config
	launched       []string
	stdout, stderr bytes.Buffer
}

func (c *call) main(args ...string) int {
	ready := func(cfg engine.Config) error {
		c.config = cfg
		if c.err != nil {
			return c.err
		}
		return cfg.Ready(&engine.Instance{Rules: portfwd.NewTable(portfwd.TableConfig{Carrier: deadEnd{}})})
	}
	p := &program{
		name: "/usr/bin/pasta", args: args, version: "v1", out: &c.stdout, err: newSink(&c.stderr),
		attach: func(_ context.Context, to engine.Attachment, cfg engine.Config) error {
			c.to = to
			return ready(cfg)
		},
		run: func(_ context.Context, guest userns.Config, cfg engine.Config) (int, error) {
			c.guest = guest
			return c.status, ready(cfg)
		},
		launch: func(args []string) (int, error) {
			c.launched = args
			return c.status, c.err
		},
	}
	return p.main(context.Background())
}

// A deadEnd is an engine that never hears of anything.
type deadEnd struct{}

func (deadEnd) Publish([]portfwd.Listener, []*os.File) error { return nil }
func (deadEnd) Unpublish(int, portfwd.Existing) (func() error, error) {
	return func() error { return nil }, nil
}

func (deadEnd) Pause(portfwd.SocketID) error  { return nil }
func (deadEnd) Resume(portfwd.SocketID) error { return nil }

// quiet are options without ports.
const quiet = "-t none -u none -T none -U none "

func TestModes(t *testing.T) {
	t.Setenv("SHELL", "/bin/fish")
	for line, want := range map[string]string{
		"-t none":                            "command /bin/fish -l",
		"-t none -- true":                    "command true",
		"-t none x 4711":                     "command x 4711",
		"-t none sh -c exit":                 "command sh -c exit",
		"-f 4711":                            "attach process 4711",
		"-f --userns /u 4711":                "attach process 4711 user /u",
		"-f --netns-only 4711":               "attach process 4711 alone",
		"-f --netns /run/x/y":                "attach /run/x/y",
		"-f --netns box":                     "attach /run/netns/box",
		"-f --userns /u --netns box":         "attach /run/netns/box user /u",
		"-f --netns box --no-netns-quit":     "attach /run/netns/box stay",
		"4711":                               "launch 4711",
		"--config-net --netns box":           "launch --config-net --netns box",
		"--userns /u --netns /proc/5/ns/net": "launch --userns /u --netns /proc/5/ns/net",
	} {
		var c call
		if status := c.main(strings.Fields(line)...); status != 0 {
			t.Errorf("%s: status %d: %s", line, status, &c.stderr)
			continue
		}
		if got := c.what(); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

// what says which way a call went.
func (c *call) what() string {
	words := []string{"attach"}
	switch target := c.to.Target; {
	case c.guest.Command != nil:
		return "command " + strings.Join(c.guest.Command, " ")
	case c.launched != nil:
		return "launch " + strings.Join(c.launched, " ")
	case target.PID != 0:
		words = append(words, "process", strconv.Itoa(target.PID))
	default:
		words = append(words, target.NetNS)
	}
	if c.to.Target.UserNS != "" {
		words = append(words, "user", c.to.Target.UserNS)
	}
	if c.to.Target.NetOnly {
		words = append(words, "alone")
	}
	if c.to.Stay {
		words = append(words, "stay")
	}
	return strings.Join(words, " ")
}

func TestCommandNamespaces(t *testing.T) {
	var c call
	c.main("-H", "box", "true")
	if g := c.guest; !g.PID || !g.IPC || !g.UTS || g.Hostname != "box" || g.Identity != userns.IdentityRoot {
		t.Errorf("got %+v, want all namespaces and the host name", g)
	}
	host := func() (string, error) { return strings.Repeat("h", maxName), nil }
	if got := (&options{}).guestName(host); !strings.HasPrefix(got, "pasta-h") || len(got) != maxName {
		t.Errorf("host name: got %q, want at most %d bytes of pasta-HOST", got, maxName)
	}
}

func TestStatus(t *testing.T) {
	hinted := &portfwd.BindError{Port: 80, Err: syscall.EACCES}
	for _, tt := range []struct {
		line           string
		status         int // of the command or the supervisor
		err            error
		want           int
		stdout, stderr string
	}{
		{"true", 37, nil, 37, "", ""},
		{"true", 0, errors.New("no network"), 1, "", "no network\n"},
		{"true", 127, &userns.CommandError{Command: "true", Err: syscall.ENOENT}, 1, "", "true: not found\n"},
		{"4711", 0, nil, 0, "", ""},
		{"4711", 1, nil, 1, "", ""},
		{"-f 4711", 0, errors.New("gone"), 1, "", "gone\n"},
		{"-f 4711", 0, hinted, 1, "", hinted.Error() + "\nhint: " + hinted.Hint() + "\n"},
		{"--version", 0, nil, 0, versionText("v1"), ""},
		{"--help", 0, nil, 0, Help, ""},
		{"--xyz", 0, nil, 1, "", "/usr/bin/pasta: unrecognized option '--xyz'\n" + usage},
		{"-m x", 0, nil, 1, "", "Invalid MTU: x: not 0 or 68 to 65535\n"},
		{"-f -t x 4711", 0, nil, 1, "", "Invalid port specifier x: not a port from 1 to 65535\n"},
		{"-f -P /nonexistent/pid 4711", 0, nil, 1, "", "open /nonexistent/pid: no such file or directory\n"},
		{"-l /nonexistent/log true", 0, nil, 1, "", "open /nonexistent/log: no such file or directory\n"},
		{"-p /nonexistent/pcap true", 0, nil, 1, "", "open /nonexistent/pcap: no such file or directory\n"},
	} {
		c := call{status: tt.status, err: tt.err}
		if got := c.main(strings.Fields(tt.line)...); got != tt.want {
			t.Errorf("%s: status %d, want %d", tt.line, got, tt.want)
		}
		if c.stdout.String() != tt.stdout || c.stderr.String() != tt.stderr {
			t.Errorf("%s: got %q and %q, want %q and %q", tt.line, &c.stdout, &c.stderr, tt.stdout, tt.stderr)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("pid"), []byte("4294967296, of old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c call
	line := quiet + "-f -d -P " + path("pid") + " -p " + path("pcap") + " -l " + path("log") + " 4711"
	if status := c.main(strings.Fields(line)...); status != 0 {
		t.Fatalf("status %d: %s", status, &c.stderr)
	}
	if got, want := readText(path("pid")), strconv.Itoa(os.Getpid())+"\n"; got != want {
		t.Errorf("pid file: got %q, want %q", got, want)
	}
	for _, name := range []string{"pid", "pcap", "log"} {
		st, err := os.Stat(path(name))
		if err != nil || st.Mode() != 0o600 {
			t.Errorf("%s: got %v, %v, want mode 0600", name, st, err)
		}
	}
	if c.config.Capture == nil || c.config.Log == nil || c.config.Stderr == nil {
		t.Errorf("got %+v, want capture, log and stderr", c.config)
	}
}

// TestLog wants messages in the log file only, and only those asked for.
func TestLog(t *testing.T) {
	for _, tt := range []struct {
		option             string
		debug, warn, fault bool
	}{
		{"", false, true, true},
		{"-d", true, true, true},
		{"--trace", true, true, true},
		{"-q", false, false, true},
	} {
		path := filepath.Join(t.TempDir(), "log")
		var c call
		c.err = errors.New("end")
		p := &program{err: newSink(&c.stderr)}
		s, err := p.prepare(parsed(t, tt.option+" -l "+path))
		if err != nil {
			t.Fatal(err)
		}
		s.config.Log.Debug("step")
		s.config.Warn("strange", "")
		s.config.Log.Error("broken")
		s.close()
		text := readText(path)
		for word, want := range map[string]bool{"step": tt.debug, "strange": tt.warn, "broken": tt.fault} {
			if got := strings.Contains(text, word); got != want {
				t.Errorf("%q: %s: got %v, want %v", tt.option, word, got, want)
			}
		}
		if c.stderr.Len() > 0 {
			t.Errorf("%q: got %q on stderr, want nothing", tt.option, &c.stderr)
		}
	}
}

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const limit = 1000
	l, err := openLogFile(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.file.Close() }()
	for i := range 500 {
		if i == 250 { // opened again, it goes on
			l.file.Close()
			if l, err = openLogFile(path, limit); err != nil {
				t.Fatal(err)
			}
		}
		line := "line " + strconv.Itoa(i) + "\n"
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
		text := readText(path)
		if len(text) > limit || !strings.HasPrefix(text, "line ") || !strings.HasSuffix(text, line) {
			t.Fatalf("after line %d: got %d bytes: %q", i, len(text), text)
		}
		if i > 100 && len(text) < limit/2-2*len(line) {
			t.Fatalf("after line %d: only %d bytes left", i, len(text))
		}
	}
}
