package front

import (
	"bytes"
	"context"
	"errors"
	"io"
	"syscall"
	"testing"

	"taproot/internal/engine"
	"taproot/internal/probe"
	"taproot/portfwd"
	"taproot/userns"
)

// call runs a command line with an engine that fails with err after status, on
// a machine where probes find results.
type call struct {
	status  int
	err     error
	results []probe.Result

	guest          userns.Config // what the engine got
	attachment     engine.Attachment
	config         engine.Config
	started        bool
	stdout, stderr bytes.Buffer
}

func (c *call) main(args ...string) (status int) {
	p := &program{
		out:     newOutput(&c.stdout),
		err:     newOutput(&c.stderr),
		version: "v1",
		run: func(_ context.Context, guest userns.Config, cfg engine.Config) (int, error) {
			c.guest, c.config, c.started = guest, cfg, true
			return c.status, c.err
		},
		attach: func(_ context.Context, a engine.Attachment, cfg engine.Config) error {
			c.attachment, c.config, c.started = a, cfg, true
			if c.err != nil {
				return c.err
			}
			return cfg.Ready(&engine.Instance{Rules: portfwd.NewTable(portfwd.TableConfig{})})
		},
		probe: func(context.Context) []probe.Result { return c.results },
	}
	return p.main(context.Background(), args)
}

func TestExitStatus(t *testing.T) {
	notFound := &userns.CommandError{Command: "x", Err: syscall.ENOENT}
	noTUN := []probe.Result{{Name: "tun", Status: probe.Missing, Required: true, Remedy: "modprobe tun"}}
	tests := []struct {
		name   string
		call   call
		want   int
		stderr string
	}{
		{"command's status", call{status: 7}, 7, ""},
		{"signal", call{status: 130}, 130, ""},
		{"own failure", call{err: errors.New("open x: gone")}, 125, "taproot: open x: gone\n"},
		{"not found", call{err: notFound}, 127, "taproot: x: not found\n"},
		{
			"not executable", call{err: &userns.CommandError{Command: "x", Err: syscall.EACCES}}, 126,
			"taproot: x: permission denied\n",
		},
		{
			"own failure with hint", call{err: &misused{"open x: gone", "do y"}}, 125,
			"taproot: open x: gone\ntaproot: hint: do y\n",
		},
		{
			"own failure that a probe explains", call{err: errors.New("open x: gone"), results: noTUN}, 125,
			"taproot: open x: gone\ntaproot: hint: modprobe tun\n",
		},
		{
			"not found is not explained by a probe",
			call{err: notFound, results: noTUN}, 127,
			"taproot: x: not found\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.call.main("run", "true"); got != tt.want {
				t.Errorf("status: got %v, want %v", got, tt.want)
			}
			if got := tt.call.stderr.String(); got != tt.stderr {
				t.Errorf("stderr: got %q, want %q", got, tt.stderr)
			}
		})
	}
}

// misused is an error with a hint of another package.
type misused struct{ message, hint string }

func (m *misused) Error() string { return m.message }
func (m *misused) Hint() string  { return m.hint }

func TestCheck(t *testing.T) {
	c := call{results: []probe.Result{
		{Name: "tun", Status: probe.Missing, Required: true, Detail: "gone", Remedy: "modprobe tun"},
		{Name: "ping", Status: probe.OK, Detail: "works"},
	}}
	if got, want := c.main("check"), statusUnfit; got != want {
		t.Errorf("status: got %v, want %v", got, want)
	}
	want := "missing   tun   gone; fix: modprobe tun\n" +
		"ok        ping  works\n" +
		"taproot run does not work here\n"
	if got := c.stdout.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCheckJSON(t *testing.T) {
	c := call{results: []probe.Result{{Name: "ping", Status: probe.Missing, Detail: "a<b"}}}
	if got := c.main("check", "--json"); got != 0 {
		t.Errorf("status: got %v, want 0: ping is not required", got)
	}
	want := `{
  "version": "v1",
  "works": true,
  "results": [
    {
      "name": "ping",
      "status": "missing",
      "required": false,
      "detail": "a<b"
    }
  ]
}
`
	if got := c.stdout.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWarn(t *testing.T) {
	var c call
	c.main("run", "true")
	c.config.Warn("10.0.2.0/24 is a network of eth0 too", "use: --net=auto")
	want := "taproot: warning: 10.0.2.0/24 is a network of eth0 too\ntaproot: hint: use: --net=auto\n"
	if got := c.stderr.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOutputRemembersFailure(t *testing.T) {
	r, w := io.Pipe()
	r.CloseWithError(io.ErrShortWrite)
	o := newOutput(w)
	o.printf("x")
	o.printf("y")
	if got := o.failure(); got != io.ErrShortWrite {
		t.Errorf("got %v, want %v", got, io.ErrShortWrite)
	}
}
