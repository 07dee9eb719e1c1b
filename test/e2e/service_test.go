package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"taproot/test/lab"
)

// A manager is the socket of a service manager.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// newManager listens at a name in the host's namespace.
func newManager(t *testing.T, l *lab.Lab, name string) *manager {
	t.Helper()
	m := &manager{t: t}
	err := l.Host.Do(func() (err error) {
		m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		return err
	})
	if err == nil && name[0] == '/' {
		err = l.Give(name)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Close() })
	return m
}

// await waits until the manager is told something with a prefix, and returns the
// lines of it.
func (m *manager) await(prefix string) string {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(lab.Patience))
	for b := make([]byte, 4096); ; {
		n, err := m.conn.Read(b)
		if err != nil {
			m.t.Fatalf("%s: %v", prefix, err)
		}
		if strings.HasPrefix(string(b[:n]), prefix) {
			return string(b[:n])
		}
	}
}

// awaitSilence waits until nothing has been told for a while.
func (m *manager) awaitSilence(d time.Duration) {
	m.t.Helper()
	b := make([]byte, 4096)
	for end := time.Now().Add(lab.Patience); time.Now().Before(end); {
		m.conn.SetReadDeadline(time.Now().Add(d))
		switch _, err := m.conn.Read(b); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			m.t.Fatal(err)
		}
	}
	m.t.Fatalf("something is told all the time, want %v of silence", d)
}

// wantNothing wants nothing with a prefix to be told for a while.
func (m *manager) wantNothing(prefix string, d time.Duration) {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(d))
	for b := make([]byte, 4096); ; {
		n, err := m.conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if got := string(b[:n]); err != nil || strings.HasPrefix(got, prefix) {
			m.t.Fatalf("got %q and %v, want nothing", got, err)
		}
	}
}

// TestService: a service manager hears how an instance does; the command has nothing
// of that.
func TestService(t *testing.T) {
	t.Parallel()
	for _, abstract := range []bool{false, true} {
		t.Run(fmt.Sprintf("abstract %v", abstract), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			name := filepath.Join(l.Dir, "notify")
			if abstract {
				name = "@notify"
			}
			m := newManager(t, l, name)
			c := guest(l, nil, "sh", "-c", `test -z "$NOTIFY_SOCKET$WATCHDOG_USEC" && exec cat`)
			c.Env = append(c.Env, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=100000", "SYSTEMD_EXEC_PID=")
			in, close := pipe(t)
			c.Stdin = in
			c.MustStart()
			in.Close()
			wantContains(t, "first word", m.await("READY=1"), "\nSTATUS=the network of process ", " works")
			m.await("WATCHDOG=1")
			engine := process(t, l, engineName)
			syscall.Kill(engine.PID, syscall.SIGKILL)
			m.await("STATUS=the engine is being started (signal: killed)")
			wantContains(t, "status", m.await("STATUS=the network"), "started again 1 times")
			m.await("WATCHDOG=1")
			close.Close()
			m.await("STOPPING=1")
			if got := c.Status(); got != 0 {
				t.Errorf("status: got %d, want 0", got)
			}
		})
	}
}

// TestServiceHangs: while the engine hangs the manager hears nothing, so that it would
// start the service again if we did not start the engine.
func TestServiceHangs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	name := filepath.Join(l.Dir, "notify")
	m := newManager(t, l, name)
	s := guest(l, nil, "sh")
	s.Env = append(s.Env, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=100000", "SYSTEMD_EXEC_PID=")
	startShell(t, s)
	m.await("WATCHDOG=1")
	old := process(t, l, engineName)
	if err := syscall.Kill(old.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.awaitSilence(time.Second)
	wantContains(t, "status", m.await("STATUS=the engine is being started"), "no sign of life for 6s")
	m.await("WATCHDOG=1")
	if now := process(t, l, engineName); now.PID == old.PID {
		t.Errorf("engine: got still %v", now)
	}
}

// TestServiceOfAnother: what is said about another process than us is left to that, or
// to the command.
func TestServiceOfAnother(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	name := filepath.Join(l.Dir, "notify")
	m := newManager(t, l, name)
	c := guest(l, nil, "sh", "-c", `echo "$NOTIFY_SOCKET"`)
	c.Env = append(c.Env, "NOTIFY_SOCKET="+name, "SYSTEMD_EXEC_PID=1")
	wantText(t, "the command's", c.MustRun(), name)
	m.wantNothing("", 10*time.Millisecond)
}

// TestJournal: where standard error is the journal, lines have their priority.
func TestJournal(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"run", "--mtu=1"}, []string{"<3>taproot: "}},
		{[]string{"run", "-v", "--", "true"}, []string{"<7>msg=\"device open\" role=supervisor"}},
	} {
		f, err := os.Create(filepath.Join(l.Dir, "journal"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		c := taproot(l, tt.args...)
		c.Env = append(c.Env, fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
		c.Stderr = f
		c.MustStart().Status()
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		wantContains(t, strings.Join(tt.args, " "), string(b), tt.want...)
		for line := range strings.Lines(string(b)) {
			if line[0] != '<' {
				t.Errorf("%v: got line %q without a priority", tt.args, line)
			}
		}
	}
}
