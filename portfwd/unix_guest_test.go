package portfwd

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"taproot/stack/flow"
	"taproot/test/settle"
)

// A slowGuest is a root directory that is found when the test lets it be.
type slowGuest struct {
	root string
	hold chan struct{} // closed: at once
}

func (g *slowGuest) open() (*os.File, error) {
	<-g.hold
	return openPath(nil, g.root, unix.O_DIRECTORY)
}

// newSlowGuest returns a table over a guest whose files answer at first.
func newSlowGuest(t *testing.T) (*Table, *slowGuest) {
	t.Helper()
	g := &slowGuest{root: t.TempDir(), hold: make(chan struct{})}
	close(g.hold)
	table := NewTable(TableConfig{Carrier: &recorder{}, Sockets: socketsHere, Root: func() (*os.File, error) { return g.open() }})
	table.guestFiles.patience = settle.Patience
	t.Cleanup(table.Close)
	return table, g
}

// TestGuestSilent wants a path of the guest that nobody can look up to be an
// error after a while, and nothing to be left of what is found too late.
func TestGuestSilent(t *testing.T) {
	table, g := newSlowGuest(t)
	id, err := table.Add(t.Context(), Rule{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/there"})
	if err != nil {
		t.Fatal(err)
	}
	serveUnix(t, filepath.Join(g.root, "there"))
	f, err := table.ConnectUnix(id)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	g.hold, table.guestFiles.patience = make(chan struct{}), 10*time.Millisecond
	if _, err := table.ConnectUnix(id); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("connect: got %v, want %v", err, errGuestSilent)
	}
	late := Rule{Direction: Outbound, Proto: flow.TCP, ListenUnix: "/late", Target: addrPort("127.0.0.1:80")}
	if _, err := table.Add(t.Context(), late); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("listen: got %v, want %v", err, errGuestSilent)
	}
	close(g.hold)
	settle.Until(t, "all lookups have ended", func() bool { return len(table.guestFiles.slots) == 0 })
	if _, err := os.Lstat(filepath.Join(g.root, "late")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket that came too late: got %v, want %v", err, os.ErrNotExist)
	}
}

// TestGuestLate wants what is found too late to go to undo as it was found, whatever
// the caller has done meanwhile.
func TestGuestLate(t *testing.T) {
	g := guestFiles{slots: make(chan struct{}, 1), patience: time.Millisecond}
	hold, undone := make(chan struct{}), make(chan string, 1)
	got, err := guarded(&g, func() (string, error) {
		<-hold
		return "found", nil
	}, func(s string) { undone <- s })
	if got != "" || !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("got %q and %v, want nothing and %v", got, err, errGuestSilent)
	}
	close(hold)
	if s := <-undone; s != "found" {
		t.Errorf("undone: got %q, want what was found", s)
	}
	settle.Until(t, "the lookup has ended", func() bool { return len(g.slots) == 0 })
}

// TestGuestJustInTime has lookups end at the very moment at which nobody waits for
// them any more, and wants each socket to be the caller's, or undone.
func TestGuestJustInTime(t *testing.T) {
	table, g := newSlowGuest(t)
	id, err := table.Add(t.Context(), Rule{Listen: addrPort("127.0.0.1:0"), TargetUnix: "/there"})
	if err != nil {
		t.Fatal(err)
	}
	serveUnix(t, filepath.Join(g.root, "there"))
	for i := range 500 {
		// From too short to long enough, as far as anybody can know.
		table.guestFiles.patience = time.Duration(i) * time.Microsecond
		if f, err := table.ConnectUnix(id); err == nil {
			f.Close()
		}
		if s, err := table.listenUnix(true, "/late"); err == nil {
			s.unix.close()
			closeAll([]bound{s})
		}
		settle.Until(t, "all lookups have ended", func() bool { return len(table.guestFiles.slots) == 0 })
	}
	table.guestFiles.patience = settle.Patience
	if _, err := os.Lstat(filepath.Join(g.root, "late")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket is left: got %v, want %v", err, os.ErrNotExist)
	}
}

// TestGuestSilentRemove removes a socket of the guest's while that does not
// answer, and wants nobody else to wait.
func TestGuestSilentRemove(t *testing.T) {
	table, g := newSlowGuest(t)
	path := filepath.Join(g.root, "x")
	id, err := table.Add(t.Context(), Rule{Direction: Outbound, Proto: flow.TCP, ListenUnix: "/x", Target: addrPort("127.0.0.1:80")})
	if err != nil {
		t.Fatal(err)
	}
	for range guestLookups {
		table.guestFiles.slots <- struct{}{}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := table.Remove(id); err != nil {
			t.Error(err)
		}
	})
	settle.Until(t, "the rule is gone", func() bool { return len(table.List()) == 0 })
	other, err := table.Add(t.Context(), Rule{Listen: addrPort("127.0.0.1:0"), Target: addrPort("10.0.2.100:80")})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Remove(other); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("it was removed at once: %v", err)
	}
	for range guestLookups {
		<-table.guestFiles.slots
	}
	wg.Wait()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket: got %v, want %v", err, os.ErrNotExist)
	}
}
