package e2e

import (
	"testing"

	"taproot/test/lab"
)

// TestOtherClock runs where the clock that does not jump is a year ahead of that of
// the machine. The other one, which may be set, cannot be different in a namespace;
// nothing that waits looks at it.
func TestOtherClock(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	port := serveTCP(t, l.Outside, echo)
	command := []string{"unshare", "--user", "--map-root-user", "--time", "--monotonic", "31536000", "--boottime", "31536000", "--fork", l.TaprootPath(), "run", "--"}
	command = append(command, l.ProgramArgs("connect", join(lab.Outside4, port))...)
	c := l.User(command[0], command[1:]...)
	c.Env = append(c.Env, "TMPDIR="+tmpDir(l), "XDG_RUNTIME_DIR="+runtimeDir(l))
	wantText(t, "connect", c.MustRun(), "connected")
}
