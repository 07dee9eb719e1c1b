package portfwd

import (
	"fmt"
	"os"
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

// lookUp calls look with the guest's root directory, as guarded does.
func lookUp[T any](t *Table, look func(root *os.File) (T, error), undo func(T)) (T, error) {
	return guarded(&t.guestFiles, func() (T, error) {
		root, err := t.root(true)
		if err != nil {
			var none T
			return none, err
		}
		defer root.Close()
		return look(root)
	}, undo)
}

// guarded calls look and returns what that does, or errGuestSilent after a while.
// What look brings without an error after that is given to undo: either the caller
// gets it, or undo, and never both. look shares no variable with its caller, who may
// be gone. Its goroutine ends with look, or with this process.
func guarded[T any](g *guestFiles, look func() (T, error), undo func(T)) (T, error) {
	var none T
	timer := time.NewTimer(g.patience)
	defer timer.Stop()
	select {
	case g.slots <- struct{}{}:
	case <-timer.C:
		return none, errGuestSilent
	}
	type result struct {
		found T
		err   error
	}
	results, late := make(chan result), make(chan struct{})
	go func() {
		defer func() { <-g.slots }()
		found, err := look()
		select {
		case results <- result{found, err}:
		case <-late:
			if err == nil {
				undo(found)
			}
		}
	}()
	select {
	case r := <-results:
		return r.found, r.err
	case <-timer.C:
		close(late)
		return none, errGuestSilent
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
	_, err := guarded(&t.guestFiles, func() (struct{}, error) {
		for _, u := range guests {
			u.close()
		}
		return struct{}{}, nil
	}, func(struct{}) {})
	if err != nil {
		t.cfg.Log.Warn("Unix sockets of the guest are left there", "error", err)
	}
}
