package portfwd

import (
	"fmt"
	"syscall"
	"time"
)

const (
	// guestPatience is how long a file system of the guest may take to look up a
	// path, before who wants that is told that it does not answer.
	guestPatience = 5 * time.Second

	// guestLookups is how many lookups there are at a time. Each that hangs costs
	// a thread.
	guestLookups = 8
)

// errGuestSilent says that a path of the guest could not be looked up in time.
var errGuestSilent = fmt.Errorf("the guest's file system does not answer: %w", syscall.ETIMEDOUT)

// guestFiles are lookups of the guest's paths. These may lead to a file system of
// the guest's own (FUSE) that never answers, and nothing can interrupt a thread
// that waits for it: nobody shall wait for the thread.
type guestFiles struct {
	slots    chan struct{}
	patience time.Duration
}

func newGuestFiles() guestFiles {
	return guestFiles{slots: make(chan struct{}, guestLookups), patience: guestPatience}
}

// do calls look and returns its error, or errGuestSilent after a while. What look
// brings later than that is given to undo, if that is not nil; its variables are
// not the caller's then. Its goroutine ends with look, or with this process.
func (g *guestFiles) do(look func() error, undo func()) error {
	timer := time.NewTimer(g.patience)
	defer timer.Stop()
	select {
	case g.slots <- struct{}{}:
	case <-timer.C:
		return errGuestSilent
	}
	result, late := make(chan error), make(chan struct{})
	go func() {
		defer func() { <-g.slots }()
		err := look()
		select {
		case result <- err:
		case <-late:
			if err == nil && undo != nil {
				undo()
			}
		}
	}()
	select {
	case err := <-result:
		return err
	case <-timer.C:
		close(late)
		return errGuestSilent
	}
}

// unlink removes the files of listening sockets, which must still be open: as long
// as they are, no other file can be taken for theirs. It waits for the guest.
func (t *Table) unlink(sockets []bound) {
	var guests []*unixFile
	for _, s := range sockets {
		switch {
		case s.unix == nil:
		case s.unix.ofGuest:
			guests = append(guests, s.unix)
		default:
			s.unix.close()
		}
	}
	if guests == nil {
		return
	}
	if err := t.guestFiles.do(func() error {
		for _, u := range guests {
			u.close()
		}
		return nil
	}, nil); err != nil {
		t.cfg.Log.Warn("Unix sockets of the guest are left there", "error", err)
	}
}
