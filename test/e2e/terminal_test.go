package e2e

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"taproot/test/lab"
)

// A terminal is a person at a terminal, who types only when it is time to:
// what is typed ahead gets lost when a shell changes the terminal's modes.
type terminal struct {
	t    *testing.T
	file *os.File
	seen lab.Buffer
	read int // bytes of seen that are already expected
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

// expect waits until the text is on the terminal, behind what was expected
// before.
func (term *terminal) expect(text string) {
	term.t.Helper()
	lab.Eventually(term.t, fmt.Sprintf("%q on the terminal", text), func() bool {
		seen := term.seen.String()
		i := strings.Index(seen[term.read:], text)
		if i >= 0 {
			term.read += i + len(text)
		}
		return i >= 0
	})
}

// prompt is the shells' PS1.
const prompt = "prompt> "

// TestTerminalInside uses job control of a shell inside the guest.
func TestTerminalInside(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "bash")
	l := newLab(t)
	c := guest(l, nil, "bash", "--norc", "--noprofile", "-i")
	c.Env = append(c.Env, "PS1="+prompt, "TERM=dumb")
	term := newTerminal(t, c)
	term.expect(prompt)
	term.typeKeys("cat\n")
	process(t, l, "cat")
	term.typeKeys("\x1a") // ^Z
	term.expect("Stopped")
	term.expect(prompt)
	term.typeKeys("fg\n")
	l.Eventually("cat continues", func() bool { return process(t, l, "cat").State == 'S' })
	term.typeKeys("line of text\n")
	term.expect("line of text\r\nline of text\r\n")
	term.typeKeys("\x03") // ^C
	term.expect(prompt)
	term.typeKeys("echo status=$?\n")
	term.expect("status=130")
	term.expect(prompt)
	term.typeKeys("exit 9\n")
	if got := c.Status(); got != 9 {
		t.Errorf("status: got %d, want 9", got)
	}
	if strings.Contains(term.seen.String(), "no job control") {
		t.Error("the shell has no job control")
	}
}

// TestTerminalOutside uses job control of the shell that taproot is started
// from.
func TestTerminalOutside(t *testing.T) {
	t.Parallel()
	lab.NeedProgram(t, "bash")
	l := newLab(t)
	c := l.User("bash", "--norc", "--noprofile", "-i")
	c.Env = append(c.Env, "PS1="+prompt, "TERM=dumb", "XDG_RUNTIME_DIR="+runtimeDir(l))
	term := newTerminal(t, c)
	term.expect(prompt)
	term.typeKeys(l.TaprootPath() + " run -- cat\n")
	process(t, l, "cat")
	term.typeKeys("first line\n")
	term.expect("first line\r\nfirst line\r\n")
	term.typeKeys("\x1a") // ^Z
	term.expect("Stopped")
	term.expect(prompt)
	l.Eventually("cat is stopped", func() bool { return process(t, l, "cat").State == 'T' })
	term.typeKeys("echo still $((40+2))\n")
	term.expect("still 42")
	term.expect(prompt)
	term.typeKeys("fg\n")
	l.Eventually("cat continues", func() bool { return process(t, l, "cat").State == 'S' })
	term.typeKeys("second line\n")
	term.expect("second line\r\nsecond line\r\n")
	term.typeKeys("\x04") // end of input
	term.expect(prompt)
	term.typeKeys("echo status=$?\n")
	term.expect("status=0")
	term.expect(prompt)
	term.typeKeys(l.TaprootPath() + " run -- sleep 4321\n")
	process(t, l, "sleep 4321")
	term.typeKeys("\x03") // ^C
	term.expect(prompt)
	term.typeKeys("echo status=$?\n")
	term.expect("status=130")
	term.expect(prompt)
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
