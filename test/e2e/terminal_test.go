package e2e

import (
	"io"
	"os"
	"strings"
	"testing"

	"taproot/test/lab"
)

// A terminal is a person at a terminal: it types and reads.
type terminal struct {
	t    *testing.T
	file *os.File
	seen lab.Buffer
}

// newTerminal gives c a terminal, starts it, and collects what is on it.
func newTerminal(t *testing.T, c *lab.Cmd) *terminal {
	t.Helper()
	term := &terminal{t: t, file: c.PTY()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the terminal:\n%q", term.seen.String())
		}
	})
	c.MustStart()
	go io.Copy(&term.seen, term.file)
	return term
}

func (term *terminal) typeKeys(keys string) {
	term.t.Helper()
	if _, err := io.WriteString(term.file, keys); err != nil {
		term.t.Fatal(err)
	}
}

// expect waits until the text is on the terminal.
func (term *terminal) expect(text string) {
	term.t.Helper()
	lab.Eventually(term.t, text+" on the terminal", func() bool {
		return strings.Contains(term.seen.String(), text)
	})
}

// TestTerminalInside uses job control of a shell inside the guest.
func TestTerminalInside(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "bash")
	l := newLab(t)
	c := guest(l, nil, "bash", "--norc", "--noprofile", "-i")
	c.Env = append(c.Env, "PS1=prompt> ", "TERM=dumb")
	term := newTerminal(t, c)
	term.expect("prompt> ")
	term.typeKeys("cat\n")
	process(t, l, "cat")
	term.typeKeys("\x1a") // ^Z
	term.expect("Stopped")
	term.typeKeys("fg\n")
	term.typeKeys("line of text\n")
	term.expect("line of text\r\nline of text")
	term.typeKeys("\x03") // ^C
	term.typeKeys("echo status=$?\n")
	term.expect("status=130")
	term.typeKeys("exit 9\n")
	if got := c.Status(); got != 9 {
		t.Errorf("status: got %d, want 9", got)
	}
	if strings.Contains(term.seen.String(), "no job control") {
		t.Errorf("the shell has no job control:\n%s", term.seen.String())
	}
}

// TestTerminalOutside uses job control of the shell that taproot is started
// from.
func TestTerminalOutside(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "bash")
	l := newLab(t)
	c := l.User("bash", "--norc", "--noprofile", "-i")
	c.Env = append(c.Env, "PS1=prompt> ", "TERM=dumb")
	term := newTerminal(t, c)
	term.expect("prompt> ")
	term.typeKeys(l.TaprootPath() + " run -- cat\n")
	process(t, l, "cat")
	term.typeKeys("first line\n")
	term.expect("first line\r\nfirst line")
	term.typeKeys("\x1a") // ^Z
	term.expect("Stopped")
	l.Eventually("cat is stopped", func() bool { return process(t, l, "cat").State == 'T' })
	term.typeKeys("echo still $((40+2))\n")
	term.expect("still 42")
	term.typeKeys("fg\n")
	l.Eventually("cat continues", func() bool { return process(t, l, "cat").State == 'S' })
	term.typeKeys("second line\n")
	term.expect("second line\r\nsecond line")
	term.typeKeys("\x04") // end of input
	term.typeKeys("echo status=$?\n")
	term.expect("status=0")
	term.typeKeys(l.TaprootPath() + " run -- sleep 4321\n")
	process(t, l, "sleep 4321")
	term.typeKeys("\x03") // ^C
	term.typeKeys("echo status=$?\n")
	term.expect("status=130")
	term.typeKeys("exit\n")
	c.Status()
}

// TestWindowSize changes the size of the terminal.
func TestWindowSize(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := guest(l, nil, "sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done")
	term := newTerminal(t, c)
	term.expect("ready")
	if err := lab.SetWindow(term.file, 33, 99); err != nil {
		t.Fatal(err)
	}
	term.expect("33 99")
	c.Status()
}
