package caller

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestManager tells a manager that listens at a path, and one with an abstract name.
func TestManager(t *testing.T) {
	us := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		name, socket, exec, watchdogPID, usec string
		want                                  time.Duration // of Watchdog; -1 for no manager
	}{
		{"path", filepath.Join(t.TempDir(), "notify"), us, us, "30000000", 15 * time.Second},
		{"abstract", fmt.Sprintf("@taproot-test-%d", os.Getpid()), "", "", "3000000", 1500 * time.Millisecond},
		{"without a watchdog", filepath.Join(t.TempDir(), "notify"), us, "", "", 0},
		{"somebody else's watchdog", filepath.Join(t.TempDir(), "notify"), us, "1", "3000000", 0},
		{"a watchdog without sense", filepath.Join(t.TempDir(), "notify"), us, us, "18446744073709551615", 0},
		{"somebody else's service", filepath.Join(t.TempDir(), "notify"), "1", "", "", -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: tt.socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			t.Setenv(notifySocket, tt.socket)
			t.Setenv(execPID, tt.exec)
			t.Setenv(watchdogPID, tt.watchdogPID)
			t.Setenv(watchdogUsec, tt.usec)
			m, err := NewManager()
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if tt.want < 0 {
				if m != nil || os.Getenv(notifySocket) == "" {
					t.Error("got a manager, want it left to others")
				}
				return
			}
			if got := m.Watchdog(); got != tt.want {
				t.Errorf("watchdog: got %v, want %v", got, tt.want)
			}
			if left := os.Getenv(notifySocket) + os.Getenv(watchdogUsec) + os.Getenv(watchdogPID); left != "" {
				t.Errorf("environment: got %q left", left)
			}
			m.Tell(NotifyReady, NotifyStatus("all\nwell"))
			b := make([]byte, 100)
			n, err := l.Read(b)
			if got := string(b[:n]); err != nil || got != "READY=1\nSTATUS=all well" {
				t.Errorf("got %q and %v", got, err)
			}
		})
	}
}

func TestNoManager(t *testing.T) {
	t.Setenv(notifySocket, "")
	m, err := NewManager()
	if m != nil || err != nil {
		t.Errorf("got %v and %v, want none", m, err)
	}
	m.Tell(NotifyReady)
	m.Close()
	if got := m.Watchdog(); got != 0 {
		t.Errorf("watchdog: got %v, want none", got)
	}
	for _, name := range []string{"vsock:2:1234", filepath.Join(t.TempDir(), "nobody")} {
		t.Setenv(notifySocket, name)
		t.Setenv(execPID, "")
		if m, err := NewManager(); m != nil || err == nil {
			t.Errorf("%s: got %v and no error", name, m)
		}
	}
}

// TestToJournal wants the journal recognised by what is open, not by the variable.
func TestToJournal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	info, err := w.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]bool{
		"": false, "1:2": false, "x": false, deviceAndInode(info): true,
	} {
		t.Setenv(journalStream, value)
		if got := ToJournal(w); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	if _, err := PriorityWarning.Writer(w).Write([]byte("one\ntwo\n")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := r.Read(b)
	if got := string(b[:n]); err != nil || got != "<4>one\n<4>two\n" {
		t.Errorf("got %q and %v", got, err)
	}
}

func deviceAndInode(i os.FileInfo) string {
	st := i.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// FuzzEnvironment has the caller's environment say anything of a service manager: it is
// understood or none of ours, and no time is one that cannot be.
func FuzzEnvironment(f *testing.F) {
	f.Add("/nowhere", "", "", "30000000", "8:1")
	f.Add("@nobody", "1", "2", "18446744073709551615", ":")
	f.Add("vsock:2:1", "x", "-1", "-1", "8:")
	f.Add("@", "", "", "0x10", "\xff")
	f.Fuzz(func(t *testing.T, socket, exec, pid, usec, journal string) {
		for name, value := range map[string]string{notifySocket: socket, execPID: exec, watchdogPID: pid, watchdogUsec: usec, journalStream: journal} {
			if strings.ContainsRune(value, 0) {
				return // no environment has it
			}
			t.Setenv(name, value)
		}
		if d := watchdogTime(); d < 0 || d > longestWatchdog {
			t.Errorf("watchdog: got %v", d)
		}
		m, err := NewManager()
		if m != nil {
			t.Errorf("%q: got a manager where none listens", socket)
		}
		if ours := err != nil; ours && os.Getenv(notifySocket) != "" {
			t.Errorf("%q: left to others, who are not meant", socket)
		}
		if ToJournal(os.Stderr) && journal == "" {
			t.Error("journal: got one that nobody has told of")
		}
		for line := range strings.Lines(PriorityInfo.Mark(socket)) {
			if !strings.HasPrefix(line, "<6>") {
				t.Errorf("got line %q, want it marked", line)
			}
		}
		if strings.Contains(NotifyStatus(journal), "\n") {
			t.Errorf("%q: more than one word for the manager", journal)
		}
	})
}
